/** From the text of Compose files to a checked model. */
import { attachServices, usedNetworks, type Attached } from "./attach.ts";
import { loadFile } from "./compose.ts";
import { Contents } from "./contents.ts";
import { Asked } from "./host.ts";
import { MAX_FILES, MAX_SERVICES, MAX_TEXT_CHARS } from "./limits.ts";
import { merge, settle } from "./merge.ts";
import type { Ask, Service, Stack } from "./model.ts";
import { newBudget } from "./read.ts";
import { Reader } from "./reader.ts";
import { Report, Stopped, type Diagnostic } from "./report.ts";
import { readConfigs, readNetworks, readSecrets, readVolumes } from "./resources.ts";
import { readService } from "./service.ts";
import { newSubstitution } from "./substitute.ts";
import { checkSupport } from "./support-check.ts";
import { withEntry, type Mapping, type Tree } from "./tree.ts";

/** What a stack is made of. The library reads nothing by itself. */
export interface ComposeInput {
  /** In the order of merging; a later one changes an earlier one. */
  readonly files: readonly { readonly name: string; readonly text: string }[];
  /** Variables for interpolation, for `environment` without values, and for secrets and configs of `environment`. */
  readonly variables?: Readonly<Record<string, string>>;
  /** The stack's name. Empty: the files' `name`. */
  readonly name?: string;
  /** Active profiles; `*` for all. */
  readonly profiles?: readonly string[];
  /** Env files, files of secrets and configs, included and extended files, by the path that the Compose file has. */
  readonly contents?: Readonly<Record<string, string | Uint8Array>>;
  /** Secrets that exist outside. Unset: not checked here. */
  readonly externals?: { readonly secrets?: readonly string[] };
  /** The folder on the host where relative host paths begin. Unset: they are refused. */
  readonly projectDirectory?: string;
}

/** What came out. */
export interface ParsedStack {
  /** Only where there is no error. */
  readonly stack?: Stack;
  /** What it asks of the host, for `checkPolicy`. */
  readonly asks: readonly Ask[];
  /** The contents of secrets that came with the stack, by name. Never log or store them in clear text. */
  readonly contents: ReadonlyMap<string, Uint8Array>;
  /** Paths that the files name and whose content was not given: read them and parse again. */
  readonly missing: readonly string[];
  readonly errors: readonly Diagnostic[];
  readonly warnings: readonly Diagnostic[];
}

const stackName = /^[a-z0-9][a-z0-9_-]{0,62}$/;

/** Reads, interpolates, merges, checks and normalises. Whatever is wrong with the input is an error in the answer. */
export function parseCompose(input: ComposeInput): ParsedStack {
  const report = new Report();
  const asked = new Asked(report);
  const contents = new Map<string, Uint8Array>();
  const given = new Contents(input.contents ?? {});
  let stack: Stack | undefined;
  try {
    const project = load(input, given, report);
    if (project !== undefined) stack = normalise(project, input, given, report, asked, contents);
  } catch (error) {
    // A limit was reached, and is in the report.
    if (!(error instanceof Stopped)) throw error;
  }
  const sound = stack !== undefined && report.errors.length === 0;
  return {
    ...(sound ? { stack } : {}),
    asks: asked.asks,
    contents,
    missing: [...given.missing],
    errors: report.errors,
    warnings: report.warnings,
  };
}

/** All files as one tree. */
function load(input: ComposeInput, given: Contents, report: Report): Mapping | undefined {
  const nowhere = { file: input.files[0]?.name ?? "", line: 0, column: 0 };
  if (input.files.length > MAX_FILES)
    report.stop("TOO_MANY", nowhere, [], `more than ${MAX_FILES} files`, "Merge some of them.");
  let left = MAX_TEXT_CHARS;
  const bounded = (file: string, text: string) => {
    left -= text.length;
    if (left < 0)
      report.stop("TOO_LARGE", { ...nowhere, file }, [], `more than ${MAX_TEXT_CHARS} characters`, "Split the stack.");
    return text;
  };
  const loading = {
    budget: newBudget(),
    substitution: newSubstitution(input.variables ?? {}),
    report,
    contentOf: (path: string) => {
      const text = given.textOf(path);
      return text === undefined ? undefined : bounded(path, text);
    },
  };
  let project: Tree | undefined;
  for (const { name, text } of input.files) {
    const file = loadFile(name, bounded(name, text), loading);
    if (file !== undefined) project = project === undefined ? settle(file) : merge(project, file);
  }
  const settled = project === undefined ? undefined : settle(project);
  if (settled === undefined && report.errors.length === 0)
    report.error("SERVICES_MISSING", nowhere, [], "the files are empty", "Add services:.");
  return settled?.kind === "mapping" && report.errors.length === 0 ? settled : undefined;
}

function nameOf(input: ComposeInput, project: Reader, report: Report): string {
  const given = input.name ?? "";
  const name = given === "" ? (project.word("name") ?? "") : given;
  if (!stackName.test(name)) {
    const message = name === "" ? "the stack has no name" : `${JSON.stringify(name)} cannot be a stack's name`;
    const advice = "Give a name of lower-case letters, digits, dashes and underscores, at most 63.";
    report.error("NAME_INVALID", project.at("name"), given === "" ? ["name"] : [], message, advice);
  }
  return name;
}

/** The services of active profiles, and the names of the others. */
function byProfile(project: Mapping, input: ComposeInput, report: Report): { active: Mapping; disabled: Set<string> } {
  const services = project.entries.get("services");
  const disabled = new Set<string>();
  if (services?.kind !== "mapping") return { active: project, disabled };
  const wanted = new Set(input.profiles ?? []);
  const known = new Set<string>();
  const entries = new Map<string, Tree>();
  for (const [name, service] of services.entries) {
    const profiles = service.kind === "mapping" ? new Reader(service, [], report).texts("profiles") : [];
    for (const profile of profiles) known.add(profile);
    if (profiles.length === 0 || wanted.has("*") || profiles.some((profile) => wanted.has(profile)))
      entries.set(name, service);
    else disabled.add(name);
  }
  for (const profile of wanted)
    if (profile !== "*" && !known.has(profile)) {
      const advice = known.size === 0 ? "The files have no profiles." : `There are: ${[...known].join(", ")}.`;
      report.warn("PROFILE_UNKNOWN", services.at, [], `no service has the profile ${JSON.stringify(profile)}`, advice);
    }
  return { active: withEntry(project, "services", { ...services, entries }), disabled };
}

function normalise(
  whole: Mapping,
  input: ComposeInput,
  given: Contents,
  report: Report,
  asked: Asked,
  contents: Map<string, Uint8Array>,
): Stack {
  const { active, disabled } = byProfile(whole, input, report);
  checkSupport(active, report);
  const project = new Reader(active, [], report);
  const variables = input.variables ?? {};
  const bytesOf = (path: string) => given.bytesOf(path);
  const name = nameOf(input, project, report);
  const volumes = readVolumes(project, asked);
  const networks = readNetworks(project, asked);
  const origins = { variables, bytesOf, externals: input.externals?.secrets, spent: { contents: 0 } };
  const secrets = readSecrets(project, origins, contents);
  const configs = readConfigs(project, origins);
  const names = (list: readonly { name: string }[]) => new Set(list.map((one) => one.name));
  const spent = { environment: 0 };
  const around = { variables, given, spent, declared: names(configs), projectDirectory: input.projectDirectory };
  const read: Attached[] = [...project.children("services")].map(([service, reader]) => ({
    service: readService(service, reader, around, asked),
    reader,
  }));
  if (read.length === 0) {
    const message = disabled.size > 0 ? "no active profile has a service" : "there is no service";
    report.error(
      "SERVICES_MISSING",
      project.at("services"),
      ["services"],
      message,
      "Add a service, or activate a profile.",
    );
  }
  if (read.length > MAX_SERVICES)
    report.stop(
      "TOO_MANY",
      project.at("services"),
      ["services"],
      `more than ${MAX_SERVICES} services`,
      "Split the stack.",
    );
  const services: Service[] = attachServices(read, {
    volumes: names(volumes),
    networks: names(networks),
    secrets: names(secrets),
    configs: new Set([...names(configs), ...given.made.keys()]),
    disabled,
  });
  return {
    name,
    services: byName(services),
    volumes: byName(volumes),
    networks: byName(usedNetworks(services, networks)),
    secrets: byName(secrets),
    configs: byName([...configs, ...given.made.values()]),
  };
}

function byName<T extends { readonly name: string }>(list: readonly T[]): T[] {
  return list.toSorted((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}
