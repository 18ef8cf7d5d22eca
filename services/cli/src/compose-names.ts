/**
 * What Compose files name of their surroundings: variables and other files.
 * What the files mean is the server's to say; here is only found what it needs.
 *
 * N1: nothing leaves this host that the files don't name: no other variable of
 *     the shell, and no file that only the server asks for.
 */
import { parseAllDocuments } from "yaml";
import { expand, variablesIn } from "./dotenv.ts";

/** Aliases of one file; the server refuses more. */
const maxAliases = 1_000;
/** A longer text is no path. */
const maxPathChars = 4_096;

type Variables = Readonly<Record<string, string | undefined>>;

/** All paths and texts have their variables' values, and start at the folder of the first file. */
export type ComposeNames = {
  variables: Set<string>;
  /** Every text of the files; a path is one of them, or what stands before a colon of one. */
  texts: string[];
  envFiles: string[];
  /** Included files and those that are extended from, and where relative paths in them start. */
  composeFiles: { path: string; folder: string }[];
  /** `.env` beside included files: it is read for those, and nobody names it. */
  implied: string[];
  /** The file's own `name`, without values. */
  name: string | undefined;
};

/**
 * What a Compose file names whose relative paths start at `folder` (empty: the first file's). What cannot be read as
 * YAML names variables only: the server tells where it is wrong.
 */
export function namesIn(text: string, variables: Variables, folder = ""): ComposeNames {
  const names: ComposeNames = {
    variables: new Set(variablesIn(text)),
    ...{ texts: [], envFiles: [], composeFiles: [], implied: [], name: undefined },
  };
  const pathOf = (written: string): string =>
    pathFrom(
      folder,
      expand(written, (name) => variables[name]),
    );
  for (const document of documents(text)) {
    const found: string[] = [];
    collect(document, found);
    names.texts.push(...found.filter((one) => one.length <= maxPathChars).map(pathOf));
    const { name, include, services } = mapping(document);
    if (typeof name === "string") names.name = name;
    for (const one of list(include)) addIncluded(names, one, pathOf);
    for (const service of Object.values(mapping(services))) {
      const { environment, env_file: envFile, extends: base } = mapping(service);
      for (const one of list(envFile)) names.envFiles.push(...texts(mapping(one).path ?? one).map(pathOf));
      for (const path of texts(mapping(base).file).map(pathOf))
        names.composeFiles.push({ path, folder: folderOf(path) });
      const passed = Array.isArray(environment)
        ? texts(environment).filter((one) => !one.includes("="))
        : Object.entries(mapping(environment)).flatMap(([key, value]) => (value === null ? key : []));
      for (const variable of passed) names.variables.add(variable);
    }
    for (const kind of ["secrets", "configs"])
      for (const one of Object.values(mapping(mapping(document)[kind])))
        for (const variable of texts(mapping(one).environment)) names.variables.add(variable);
  }
  return names;
}

/** Variables that an env file refers to or passes on. */
export function variablesOfEnvFile(text: string): string[] {
  const passed = [...text.matchAll(/^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*\r?$/gm)].map(([, name = ""]) => name);
  return [...variablesIn(text), ...passed];
}

/** Whether one of the texts is this path, or begins with it and a colon (N1). */
export function isNamed(path: string, texts: readonly string[]): boolean {
  const plain = plainPath(path);
  return path !== "" && texts.some((text) => text === plain || text.startsWith(`${plain}:`));
}

function addIncluded(names: ComposeNames, include: unknown, pathOf: (written: string) => string): void {
  const { path, project_directory: project, env_file: envFile } = mapping(include);
  const paths = texts(path ?? include).map(pathOf);
  const [folder = folderOf(paths[0] ?? "")] = texts(project).map(pathOf);
  const start = folder === "." ? "" : folder;
  names.composeFiles.push(...paths.map((one) => ({ path: one, folder: start })));
  names.envFiles.push(...texts(envFile).map(pathOf));
  if (start !== "") names.implied.push(`${start}/.env`);
}

/** The folder that a file is in; empty: the first file's. */
function folderOf(path: string): string {
  return path.slice(0, Math.max(path.lastIndexOf("/"), 0));
}

function pathFrom(folder: string, path: string): string {
  return plainPath(folder === "" || /^[/~\\]/.test(path) ? path : `${folder}/${path}`);
}

/** `./a//b/../c` as `a/c`. */
export function plainPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/"))
    if (part === ".." && parts.length > 0 && parts.at(-1) !== "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  const plain = parts.join("/");
  return path.startsWith("/") ? `/${plain}` : plain === "" ? "." : plain;
}

/** A name for a stack made of another text: what the API allows of it, empty where that is nothing. */
export function stackNameOf(text: string): string {
  return text
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replace(/^[-0-9]+/, "")
    .slice(0, 63)
    .replace(/-+$/, "");
}

function documents(text: string): unknown[] {
  try {
    const parsed = parseAllDocuments(text, { merge: true, uniqueKeys: false, prettyErrors: false, logLevel: "silent" });
    return Array.isArray(parsed) ? parsed.map((one) => one.toJS({ maxAliasCount: maxAliases }) as unknown) : [];
  } catch {
    return []; // the server says why
  }
}

function collect(value: unknown, found: string[]): void {
  if (typeof value === "string") found.push(value);
  else if (typeof value === "object" && value !== null) for (const one of Object.values(value)) collect(one, found);
}

function mapping(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : value === undefined || value === null ? [] : [value];
}

function texts(value: unknown): string[] {
  return list(value).filter((one) => typeof one === "string");
}
