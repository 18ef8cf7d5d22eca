/**
 * The last good generation of each routes deployment, as files in the data
 * plane's volume.
 *
 * F1: a file is whole or not there: written beside, fsynced, renamed, and the
 *     folder fsynced before it counts.
 */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { type AttachedDocument, isSafeId, readDocument, routesFolder, writeDocument } from "../document.ts";

function fileOf(volume: string, deploymentId: string): string {
  if (!isSafeId(deploymentId)) throw new Error(`not an id: ${deploymentId}`);
  return join(volume, routesFolder, `${deploymentId}.json`);
}

export async function keepLastGood(volume: string, document: AttachedDocument): Promise<void> {
  const path = fileOf(volume, document.deploymentId);
  const text = writeDocument(document);
  if ((await readOr(path)) === text) return;
  await mkdir(join(volume, routesFolder), { recursive: true });
  const beside = `${path}.new`;
  const file = await open(beside, "w", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(beside, path);
  await syncFolder(volume);
}

/** Undefined: there is none, or none that this version reads. */
export async function readLastGood(volume: string, deploymentId: string): Promise<AttachedDocument | undefined> {
  const text = await readOr(fileOf(volume, deploymentId));
  try {
    return text === undefined ? undefined : readDocument(text);
  } catch {
    return undefined; // of another version; the data plane refuses it too
  }
}

export async function forgetLastGood(volume: string, deploymentId: string): Promise<void> {
  await rm(fileOf(volume, deploymentId), { force: true });
  await syncFolder(volume);
}

/** Leaves only the files of deployments that stay. */
export async function keepOnly(volume: string, stays: (deploymentId: string) => boolean): Promise<void> {
  await mkdir(join(volume, routesFolder), { recursive: true });
  for (const name of await readdir(join(volume, routesFolder))) {
    if (!name.endsWith(".json") || !stays(name.slice(0, -".json".length))) {
      await rm(join(volume, routesFolder, name), { force: true, recursive: true });
    }
  }
  await syncFolder(volume);
}

async function syncFolder(volume: string): Promise<void> {
  const folder = await open(join(volume, routesFolder), "r").catch(() => undefined);
  // No folder: nothing was ever kept there.
  if (folder === undefined) return;
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function readOr(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return undefined; // Not there, or not readable: it is written anew.
  }
}
