/**
 * Files of mode 0600 that are there whole or not at all, whenever the machine
 * stops.
 */
import { randomBytes } from "node:crypto";
import { link, mkdir, open, readFile, rename, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";

const ownerOnly = 0o600;
const ownerOnlyFolder = 0o700;

/**
 * Makes a folder of mode 0700 and what it lies in. One by one, because Node's
 * `recursive` never returns on a file system that refuses folders with ENOENT
 * (/proc). Throws what the file system says.
 */
export async function makePrivateFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: ownerOnlyFolder });
  } catch (error) {
    const code = errorCode(error);
    if (code === "EEXIST" && (await stat(path)).isDirectory()) return;
    if (code !== "ENOENT" || (await exists(dirname(path)))) throw error;
    await makePrivateFolder(dirname(path));
    await mkdir(path, { mode: ownerOnlyFolder });
  }
}

function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false, // whatever the reason: there is nothing that one can enter
  );
}

/** Replaces the file in one step; when it returns, the new content is on the disk. The folder must exist. */
export async function writePrivateFile(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = await writeBeside(path, content);
  try {
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary);
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Makes the file unless it is there; returns what it holds now. Of two at the same time one wins, and both get its content. */
export async function createPrivateFile(path: string, content: string): Promise<string> {
  const temporary = await writeBeside(path, content);
  try {
    await link(temporary, path); // Unlike rename, link leaves alone what is there.
    await syncFolder(dirname(path));
    return content;
  } catch (error) {
    if (errorCode(error) === "EEXIST") return await readFile(path, "utf8");
    throw error;
  } finally {
    await unlink(temporary);
  }
}

/** The file's text; undefined if there is none. */
export async function readPrivateFile(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (errorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** A new or renamed file is durable only after its folder is. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function writeBeside(path: string, content: string | Uint8Array): Promise<string> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  const file = await open(temporary, "wx", ownerOnly);
  try {
    await file.writeFile(content);
    await file.sync();
  } catch (error) {
    await unlink(temporary);
    throw error;
  } finally {
    await file.close();
  }
  return temporary;
}

/** By its shape: an error of Node's own is no `instanceof Error` of another realm (jest's). */
function errorCode(error: unknown): unknown {
  return (error as { code?: unknown } | undefined)?.code;
}
