/**
 * `include` and `extends`: one file's tree out of several.
 *
 *   folders.ts  where relative paths of those files start
 */
import { canonicalService } from "./canonical.ts";
import { plainPath } from "./contents.ts";
import { readEnvFile } from "./envfile.ts";
import { folderOf, relocated } from "./folders.ts";
import { MAX_EXTENDS, MAX_INCLUDES } from "./limits.ts";
import { canonical, merge, mergeServices, settle } from "./merge.ts";
import { costOf, readYaml, spend, type Budget } from "./read.ts";
import type { Path, Place, Report } from "./report.ts";
import { checkSchema } from "./schema.ts";
import { substitute, type Substitution } from "./substitute.ts";
import { nearest } from "./suggest.ts";
import { mappingOf, textOf, withEntry, type Mapping, type Tree } from "./tree.ts";
import { Unreadable } from "./unreadable.ts";

/** What the files of one call share. */
export interface Loading {
  readonly budget: Budget;
  readonly substitution: Substitution;
  readonly report: Report;
  /** The text of another file, by its path as the Compose file has it. */
  readonly contentOf: (path: string) => string | undefined;
}

/**
 * One file's documents: interpolated, checked against the schema, included, extended, merged. Its relative paths start
 * at `folder`.
 */
export function loadFile(name: string, text: string, loading: Loading, depth = 0, folder = ""): Mapping | undefined {
  const { report } = loading;
  let file: Mapping | undefined;
  for (const tree of readYaml(name, text, loading.budget, report)) {
    if (tree.kind !== "mapping") {
      report.error("SCHEMA_INVALID", tree.at, [], "a Compose file is a mapping", "Begin with services:.");
      continue;
    }
    const document = substitute(tree, loading.substitution, report) as Mapping;
    if (!checkSchema(withoutReset(document), report)) continue;
    const whole = extendAll(relocated(canonical(document), folder), loading, depth);
    const all = included(whole, loading, depth);
    file = file === undefined ? all : (merge(file, all) as Mapping);
  }
  return file;
}

/** What `!reset` stands on is never read, so the schema does not see it. */
function withoutReset(tree: Tree): Tree {
  if (tree.kind === "scalar") return tree;
  if (tree.kind === "sequence")
    return { ...tree, items: tree.items.filter((item) => item.tag !== "reset").map(withoutReset) };
  const kept = [...tree.entries].filter(([, value]) => value.tag !== "reset");
  return { ...tree, entries: new Map(kept.map(([key, value]) => [key, withoutReset(value)])) };
}

function included(file: Mapping, loading: Loading, depth: number): Mapping {
  const include = file.entries.get("include");
  if (include?.kind !== "sequence") return file;
  let all: Mapping | undefined;
  for (const [index, item] of include.items.entries()) {
    const path: Path = ["include", index];
    const other = includedOne(item, path, loading, depth);
    if (other === undefined) continue;
    refuseTwice(all ?? file, other, item.at, path, loading.report);
    all = all === undefined ? other : (merge(all, other) as Mapping);
  }
  return all === undefined ? file : (merge(all, file) as Mapping);
}

function includedOne(item: Tree, path: Path, loading: Loading, depth: number): Mapping | undefined {
  const { report, contentOf } = loading;
  const field = (key: string) => (item.kind === "mapping" ? texts(item.entries.get(key)) : []);
  const names = item.kind === "mapping" ? field("path") : texts(item);
  const [given] = field("project_directory");
  const folder = given === undefined ? folderOf(names[0]?.text ?? "") : plainPath(given.text);
  const own = { ...loading, substitution: surrounded(folder, field("env_file"), path, loading) };
  let all: Mapping | undefined;
  for (const { text: name, at } of names) {
    const text = contentOf(name);
    if (text === undefined || depth >= MAX_INCLUDES) {
      const message =
        text === undefined ? `the file ${name} was not given` : `more than ${MAX_INCLUDES} files inside each other`;
      report.error("INCLUDE_UNSUPPORTED", at, path, message, "Give the file too (-f), or write its services here.");
      continue;
    }
    const file = loadFile(name, text, own, depth + 1, folder === "." ? "" : folder);
    if (file !== undefined) all = all === undefined ? file : (merge(all, file) as Mapping);
  }
  return all;
}

function texts(tree: Tree | undefined): { text: string; at: Place }[] {
  if (tree?.kind === "sequence") return tree.items.flatMap(texts);
  return tree?.kind === "scalar" && tree.value !== null ? [{ text: textOf(tree), at: tree.at }] : [];
}

/** Variables of env files that an include names, or of `.env` in its folder; those of the whole stack come first. */
function surrounded(
  folder: string,
  named: readonly { text: string; at: Place }[],
  path: Path,
  { substitution, contentOf, report }: Loading,
): Substitution {
  // At the first file's folder it is the stack's own.
  const implied = folder === "" || folder === "." ? [] : [{ text: `${folder}/.env`, at: undefined }];
  const found: Record<string, string> = Object.create(null);
  for (const { text: name, at } of named.length > 0 ? named : implied) {
    const text = name === "/dev/null" ? "" : contentOf(name);
    const where = at ?? { file: name, line: 0, column: 0 };
    if (text === undefined && at !== undefined)
      report.error("FILE_MISSING", at, path, `the env file ${name} was not given`, "Give its content with the stack.");
    try {
      const around = { ...found, ...substitution.variables };
      for (const [key, value] of readEnvFile(text ?? "", around, false)) found[key] = value;
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      report.error("VALUE_INVALID", where, path, `${name}: ${error.message}`, error.advice);
    }
  }
  return { ...substitution, variables: { ...found, ...substitution.variables } };
}

/** What is included may be used, not changed: the same name twice is a mistake. */
function refuseTwice(file: Mapping, other: Mapping, at: Place, path: Path, report: Report): void {
  for (const kind of ["services", "volumes", "networks", "secrets", "configs"]) {
    const [ours, theirs] = [file.entries.get(kind), other.entries.get(kind)];
    if (ours?.kind !== "mapping" || theirs?.kind !== "mapping") continue;
    for (const name of theirs.entries.keys())
      if (ours.entries.has(name))
        report.error(
          "CONFLICT",
          at,
          path,
          `${kind} ${name} is declared here and in the included file`,
          "Rename one of them.",
        );
  }
}

function servicesOf(file: Mapping): Mapping {
  const services = file.entries.get("services");
  return services?.kind === "mapping" ? services : mappingOf([], file.at);
}

function extendAll(file: Mapping, loading: Loading, depth: number): Mapping {
  const services = servicesOf(file);
  if (![...services.entries.values()].some((service) => service.kind === "mapping" && service.entries.has("extends")))
    return file;
  const entries = new Map<string, Tree>();
  for (const [name, service] of services.entries)
    entries.set(name, service.kind === "mapping" ? extend(name, service, file, loading, depth, []) : service);
  return withEntry(file, "services", { ...services, entries });
}

/** A service on top of the one that it extends. `seen` are those on the way. */
function extend(
  name: string,
  service: Mapping,
  file: Mapping,
  loading: Loading,
  depth: number,
  seen: readonly string[],
): Mapping {
  const extension = service.entries.get("extends");
  if (extension === undefined || extension.tag === "reset") return service;
  const { report } = loading;
  const at = service.keys.get("extends") ?? extension.at;
  const path: Path = ["services", name, "extends"];
  const rest = withEntry(service, "extends", undefined);
  const field = (key: string) => {
    const value = extension.kind === "mapping" ? extension.entries.get(key) : undefined;
    return value?.kind === "scalar" && value.value !== null ? textOf(value) : undefined;
  };
  const wanted = (extension.kind === "scalar" ? textOf(extension) : field("service")) ?? "";
  const key = `${file.at.file}#${name}`;
  if (seen.includes(key) || seen.length >= MAX_EXTENDS) {
    report.error("EXTENDS_INVALID", at, path, "services extend each other in a circle", "Remove one of these extends.");
    return rest;
  }
  const other = field("file");
  const source = other === undefined ? file : otherFile(other, at, path, loading, depth + seen.length);
  if (source === undefined) return rest;
  const services = servicesOf(source);
  const base = services.entries.get(wanted);
  if (base?.kind !== "mapping") {
    const meant = nearest(wanted, services.entries.keys());
    const where = other === undefined ? "" : ` in ${other}`;
    report.error(
      "EXTENDS_INVALID",
      at,
      path,
      `there is no service ${JSON.stringify(wanted)}${where}`,
      meant === undefined ? "Name a service of that file." : `Did you mean ${meant}?`,
    );
    return rest;
  }
  const whole = extend(wanted, canonicalService(base), source, loading, depth, [...seen, key]);
  const { nodes, chars } = costOf(whole);
  spend(loading.budget, nodes, chars, at, path, report);
  return {
    ...mergeServices(settle(whole) as Mapping, rest),
    ...(service.tag === undefined ? {} : { tag: service.tag }),
  };
}

/** Another file's tree, only to extend from: its own includes and extends are followed where they are used. */
function otherFile(name: string, at: Place, path: Path, loading: Loading, depth: number): Mapping | undefined {
  const text = loading.contentOf(name);
  if (text === undefined || depth >= MAX_EXTENDS) {
    loading.report.error(
      "EXTENDS_INVALID",
      at,
      path,
      `the file ${name} was not given`,
      "Give the file with the stack.",
    );
    return undefined;
  }
  for (const tree of readYaml(name, text, loading.budget, loading.report)) {
    if (tree.kind !== "mapping") continue;
    const document = substitute(tree, loading.substitution, loading.report) as Mapping;
    return checkSchema(withoutReset(document), loading.report)
      ? relocated(canonical(document), folderOf(name))
      : undefined;
  }
  return undefined;
}
