/**
 * Files that survive a crash at any instant: a reader finds the old content or
 * the new one, never half of either.
 */
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";

/** What is being written, by path. */
const writing = new Map<string, Promise<void>>();

/**
 * Writes `value`, as it is now, as JSON: temporary file, fsync, rename, fsync of the folder. Only the owner may read it.
 * Writes of one path follow each other in the order of their calls: an instance that is stopped while it ends by
 * itself is written by both.
 */
export async function writeDurably(path: string, value: unknown): Promise<void> {
  const text = `${JSON.stringify(value)}\n`;
  const before = writing.get(path) ?? Promise.resolve();
  const mine = before.then(
    () => replace(path, text),
    () => replace(path, text), // its own caller hears of that failure
  );
  writing.set(path, mine);
  try {
    await mine;
  } finally {
    if (writing.get(path) === mine) writing.delete(path);
  }
}

async function replace(path: string, text: string): Promise<void> {
  const temporary = `${path}.new`;
  const file = await open(temporary, "w", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  await syncFolder(dirname(path));
}

/** Undefined if there is no such file. Throws if it is not JSON: then somebody else wrote it. */
export async function readDurable(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw new Error(`${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Makes a folder that only the owner may enter, and its parents. */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
}

/**
 * Removes a folder with all that is in it. Its record goes first: a crash in
 * between leaves a folder without one, which the next start removes.
 */
export async function removeFolder(path: string, record: string): Promise<void> {
  await rm(join(path, record), { force: true });
  await rm(path, { recursive: true, force: true });
}

/** True for an error that says that there is no such file or folder. */
export function isMissing(error: unknown): boolean {
  return errorCode(error) === "ENOENT";
}

/** The code of an error of the operating system, e.g. `ENOSPC`. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
