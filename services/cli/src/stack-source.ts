/**
 * Compose files of this host with all that they refer to, for the server.
 *
 *   compose-files.ts  variables, and files by name    compose-names.ts  what files name
 *
 * S1: what the files name is sent and nothing else (N1): the server says what
 *     it misses, and gets it where the files name it.
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { create } from "@bufbuild/protobuf";
import { ComposeFileSchema, type ComposeSource, ComposeSourceSchema } from "@bowline/contract/stacks";
import type { ComposeFinding, ValidateStackResponse } from "@bowline/contract/stacks";
import type { Cli } from "./cli.ts";
import type { Api } from "./client.ts";
import { maxFileBytes, namedFiles, readBounded, readEnvFiles, variablesOf, type Variables } from "./compose-files.ts";
import { type ComposeNames, isNamed, namesIn, plainPath, stackNameOf, variablesOfEnvFile } from "./compose-names.ts";
import { dotenvLine, expand, readDotenv } from "./dotenv.ts";
import { apiError } from "./errors.ts";
import { exitCodes, Failure, usage } from "./failure.ts";
import { plain } from "./text.ts";

/** Looked for where no file is named, the first that is there; its override is read after it. */
const defaultFiles = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/** The contract's limit. */
const maxReferred = 64;
/** Of all files that the Compose files name: the server takes messages of 4 MiB, and the Compose files come on top. */
const maxReferredBytes = 3 * 1024 * 1024;
/** Files that name files that name files; the library follows no more includes. */
const maxRounds = 18;

export type SourceFlags = {
  file?: string[];
  name?: string;
  profile?: string[];
  envFile?: string[];
  hostDirectory?: string;
};

/** Compose files that were read. */
export type LocalStack = {
  /** What the first file is called in messages. */
  title: string;
  /** Empty: nothing that could be one was given. */
  name: string;
  /** Where relative paths of the files start. */
  folder: string;
  source: ComposeSource;
  names: ComposeNames;
  /** What variables may be: those of the shell, and of `.env` files. */
  variables: Variables;
};

/** Reads the files that the flags name, or those that are there. Fails with exit code 2 where they cannot be read. */
export async function readStack(cli: Cli, flags: SourceFlags): Promise<LocalStack> {
  const paths = flags.file ?? (await namedFiles(cli, flags.envFile)) ?? (await foundFiles(cli));
  const [first = "-"] = paths;
  const files = await Promise.all(paths.map(async (path) => ({ path, content: await readCompose(cli, path) })));
  const folder = first === "-" ? cli.settings.folder : dirname(resolve(cli.settings.folder, first));
  const variables = variablesOf(await readEnvFiles(cli, folder, flags.envFile), cli.settings.environment);
  const all = files.map(({ content }) => namesIn(content.toString("utf8"), variables));
  const names: ComposeNames = {
    variables: new Set(all.flatMap((one) => [...one.variables])),
    texts: all.flatMap((one) => one.texts),
    envFiles: all.flatMap((one) => one.envFiles),
    composeFiles: all.flatMap((one) => one.composeFiles),
    implied: all.flatMap((one) => one.implied),
    name: all.findLast((one) => one.name !== undefined)?.name,
  };
  const own = names.name === undefined ? undefined : expand(names.name, (name) => variables[name]);
  const source = create(ComposeSourceSchema, {
    files: files.map(({ path, content }) => ({ name: path === "-" ? "stdin" : path, content })),
    hostDirectory: flags.hostDirectory ?? "",
    profiles: flags.profile ?? (variables["COMPOSE_PROFILES"] ?? "").split(",").filter((profile) => profile !== ""),
  });
  const local: LocalStack = {
    title: source.files[0]?.name ?? "",
    name: flags.name ?? stackNameOf(variables["COMPOSE_PROJECT_NAME"] || own || basename(folder)),
    ...{ folder, source, names, variables },
  };
  takeVariables(local);
  return local;
}

/**
 * What the server says of the files, once it has what they refer to: `local`
 * gets that. `clusterId` empty: no policy is asked.
 */
export async function validated(
  cli: Cli,
  api: Api,
  local: LocalStack,
  clusterId: string,
): Promise<ValidateStackResponse> {
  const tried = new Set<string>();
  for (let round = 1; ; round += 1) {
    const { source, name } = local;
    const answer = await api.stacks.validateStack({ source, clusterId, name });
    const wanted = answer.missing.filter((path) => !tried.has(path));
    const before = source.referred.length;
    for (const path of wanted) {
      tried.add(path);
      await addReferred(cli, local, path);
    }
    if (source.referred.length === before || round >= maxRounds) return answer;
    takeVariables(local);
  }
}

/** Fails with exit code 1 and every place where there is an error; tells warnings. */
export function expectValid(cli: Cli, local: LocalStack, answer: ValidateStackResponse, quiet: boolean): void {
  if (!quiet) tellWarnings(cli, answer.warnings);
  if (answer.errors.length === 0) return;
  throw invalid(local, answer.errors.map(findingLine), answer.errors[0]?.reason);
}

/** A line each; but for those that were told. */
export function tellWarnings(
  cli: Cli,
  warnings: readonly ComposeFinding[],
  told: readonly ComposeFinding[] = [],
): void {
  const known = new Set(told.map(findingLine));
  for (const line of warnings.map(findingLine)) if (!known.has(line)) cli.note(plain(`warning: ${line}`));
}

/** `compose.yaml:12:5: services.web.ports[0]: what is wrong`. */
export function findingLine({ file, line, column, path, message }: ComposeFinding): string {
  const place = [file, ...(line === 0 ? [] : [line, column])].join(":");
  return [place, path, message].filter((part) => part !== "").join(": ");
}

/** An error of ApplyStack about the files, a line for each place. Undefined: it is of another kind. */
export function composeFailure(local: LocalStack, error: unknown): Failure | undefined {
  const api = apiError(error);
  if (api === undefined || !api.reason.startsWith("COMPOSE_")) return undefined;
  // A violation's field is the place and the path; its description begins with the path.
  const lines = api.violations.map(
    ({ field, description }) => `${/^.*?:\d+:\d+(?= |$)/.exec(field)?.[0] ?? field}: ${description}`,
  );
  return invalid(local, lines, api.reason);
}

/** `why`: the reason of the first of them. */
function invalid(local: LocalStack, lines: readonly string[], why = ""): Failure {
  const count = lines.length === 1 ? "one error" : `${lines.length} errors`;
  const message = `${local.title} cannot be applied: ${count}. Nothing was changed.`;
  const byPolicy = /POLICY/.test(why);
  const reason = byPolicy ? "COMPOSE_REFUSED_BY_POLICY" : "COMPOSE_INVALID";
  const violations = lines.map((line) => ({ field: "", description: line }));
  return new Failure(exitCodes.failed, message, {
    reason,
    lines: byPolicy ? [...lines, "An operator can allow it for the cluster, where the stack is to be trusted."] : lines,
    ...(byPolicy
      ? {
          next: [
            "cluster update <name> --allow-host-path <path>",
            "cluster update <name> --allow-privileged",
            "cluster update --help",
          ],
        }
      : {}),
    api: { code: byPolicy ? "permission_denied" : "invalid_argument", message, reason, violations, requestId: "" },
  });
}

/** Of the variables that there are, those that the files name (S1). */
function takeVariables({ source, names, variables }: LocalStack): void {
  for (const name of names.variables) {
    const value = variables[name];
    if (value !== undefined) source.environment[name] = value;
  }
}

async function foundFiles(cli: Cli): Promise<string[]> {
  const there = new Set(await readdir(cli.settings.folder));
  const first = defaultFiles.find((name) => there.has(name));
  if (first === undefined)
    throw usage(`there is no ${defaultFiles.join(", ")} here; name the file with -f`, {
      lines: [`Looked for in ${cli.settings.folder}.`],
    });
  const stem = first.replace(/\.ya?ml$/, "");
  const override = [`${stem}.override.yaml`, `${stem}.override.yml`].find((name) => there.has(name));
  return override === undefined ? [first] : [first, override];
}

/** As bytes: what is no UTF-8 is told by the server, with the file's name. */
async function readCompose(cli: Cli, path: string): Promise<Buffer> {
  if (path !== "-") return readBounded(resolve(cli.settings.folder, path), path);
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of cli.stdin) {
    chunks.push(Buffer.from(chunk as Uint8Array));
    length += chunks.at(-1)?.length ?? 0;
    if (length > maxFileBytes) throw usage("what comes from standard input is larger than 1 MiB");
  }
  return Buffer.concat(chunks);
}

/** Adds a file, or those below a folder, where the files name it (S1) and it can be read; else the server tells the place. */
async function addReferred(cli: Cli, local: LocalStack, path: string): Promise<void> {
  const { names, source, folder, variables } = local;
  const isWhole = isNamed(path, names.texts);
  if (!isWhole && !names.implied.includes(plainPath(path))) {
    cli.note(plain(`The server asks for ${path}, which the files do not name: it is not sent.`));
    return;
  }
  for (const found of await contentsOf(folder, path)) {
    const { name } = found;
    const content = isWhole ? found.content : impliedContent(found.content, local);
    if (source.referred.length >= maxReferred || source.referred.some((one) => one.name === name)) return;
    const bytes = source.referred.reduce((sum, one) => sum + one.content.length, content.length);
    if (bytes > maxReferredBytes) throw usage("the files that the stack names are larger than 3 MiB together");
    source.referred.push(create(ComposeFileSchema, { name, content }));
    if (isNamed(name, names.envFiles))
      for (const variable of variablesOfEnvFile(content.toString("utf8"))) names.variables.add(variable);
    const file = names.composeFiles.find((one) => one.path === plainPath(name));
    if (file === undefined) continue;
    const more = namesIn(content.toString("utf8"), variables, file.folder);
    for (const variable of more.variables) names.variables.add(variable);
    for (const key of ["texts", "envFiles", "implied"] as const) names[key].push(...more[key]);
    names.composeFiles.push(...more.composeFiles);
  }
}

/** Of a `.env` file beside an included one what the files name (S1). */
function impliedContent(content: Buffer, { names, variables }: LocalStack): Buffer {
  const given = readDotenv(content.toString("utf8"), variables, () => {});
  const wanted = Object.entries(given).filter(([name]) => names.variables.has(name));
  return Buffer.from(wanted.map(([name, value]) => `${dotenvLine(name, value)}\n`).join(""));
}

/** Nothing where it cannot be read, is too large, or is a folder with more files than can be sent. */
async function contentsOf(folder: string, path: string): Promise<{ name: string; content: Buffer }[]> {
  const file = resolve(folder, path);
  try {
    const found = await stat(file);
    if (found.isFile()) return found.size > maxFileBytes ? [] : [{ name: path, content: await readFile(file) }];
    if (!found.isDirectory()) return [];
    const below = await filesBelow(file);
    if (below === undefined) return [];
    const stem = path.replace(/\/+$/, "");
    return await Promise.all(
      below.map(async (name) => ({ name: `${stem}/${name}`, content: await readFile(join(file, name)) })),
    );
  } catch {
    return [];
  }
}

/** Undefined: there are more, or larger ones, than can be sent. */
async function filesBelow(top: string): Promise<string[] | undefined> {
  const found: string[] = [];
  const folders = [""];
  for (let at = 0; at < folders.length; at += 1) {
    const folder = folders[at] ?? "";
    for (const one of await readdir(join(top, folder), { withFileTypes: true })) {
      const name = folder === "" ? one.name : `${folder}/${one.name}`;
      if (one.isDirectory()) folders.push(name);
      else if (one.isFile() && (await stat(join(top, name))).size <= maxFileBytes) found.push(name);
      else if (one.isFile()) return undefined;
      if (found.length > maxReferred || folders.length > maxReferred) return undefined;
    }
  }
  return found;
}
