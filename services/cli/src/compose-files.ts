/** Files that are named from outside the Compose files: by flags, and by variables of the shell and of `.env`. */
import { readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Cli } from "./cli.ts";
import { readDotenv } from "./dotenv.ts";
import { Failure, usage } from "./failure.ts";

export type Variables = Readonly<Record<string, string | undefined>>;

/** The contract's limit of one file. */
export const maxFileBytes = 1024 * 1024;

/** What `COMPOSE_FILE` names, in the shell or in `.env` here; undefined: nothing. */
export async function namedFiles(cli: Cli, envFiles: readonly string[] | undefined): Promise<string[] | undefined> {
  const here = variablesOf(await readEnvFiles(cli, cli.settings.folder, envFiles), cli.settings.environment);
  const files = (here["COMPOSE_FILE"] ?? "").split(here["COMPOSE_PATH_SEPARATOR"] || ":").filter((file) => file !== "");
  return files.length === 0 ? undefined : files;
}

export async function readBounded(file: string, name: string): Promise<Buffer> {
  let content: Buffer;
  try {
    if ((await stat(file)).size > maxFileBytes) throw usage(`${name} is larger than 1 MiB`);
    content = await readFile(file);
  } catch (error) {
    if (error instanceof Failure) throw error;
    const isMissing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw usage(isMissing ? `there is no file ${name}` : `cannot read ${name}: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return content;
}

/** Later files win. Without a name it is `.env` beside the first Compose file, if there is one. */
export async function readEnvFiles(cli: Cli, folder: string, named: readonly string[] | undefined) {
  const files = named?.map((path) => resolve(cli.settings.folder, path)) ?? [join(folder, ".env")];
  const found: Record<string, string> = {};
  for (const file of files) {
    if (named === undefined && !(await isThere(file))) continue;
    const text = (await readBounded(file, file)).toString("utf8");
    const around = variablesOf(found, cli.settings.environment);
    const wrong = (line: number): never => {
      throw usage(`${file}:${line}: write NAME=value, or # before a comment`);
    };
    Object.assign(found, readDotenv(text, around, wrong));
  }
  return found;
}

/** In one map, the later win; without the names that every object has (`constructor`). */
export function variablesOf(...maps: readonly Variables[]): Variables {
  return Object.assign(Object.create(null) as Record<string, string | undefined>, ...maps) as Variables;
}

async function isThere(file: string): Promise<boolean> {
  return stat(file).then(
    (found) => found.isFile(),
    () => false,
  );
}
