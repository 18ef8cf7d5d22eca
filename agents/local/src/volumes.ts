/**
 * Volumes, files and the folder that an instance sees.
 *
 * A volume is a folder below the data folder; a mount is a link to it in the
 * instance's own folder, a file is a copy there, that of a secret with mode
 * 0400. Removing an instance removes links; what they point to goes only with its deployment.
 */
import { chmod, lstat, mkdir, readdir, rm, rmdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Deployment, Workload } from "@bowline/contract/deployments";
import { errorCode, isMissing, makeFolder, mountTarget, type Opened, Refusal } from "@bowline/agent-core/runtimes";

/** Mode of a file whose spec says none. */
const defaultFileMode = 0o444;

/** Whether a volume stays when its deployment goes, by name. */
export type VolumeKeeping = Record<string, boolean>;

export function volumeFolder(dataDir: string, deploymentId: string, volume: string): string {
  return join(dataDir, "volumes", deploymentId, volume);
}

/** Makes the volumes of a spec that are not there yet. Throws VOLUME_FAILED. */
export async function makeVolumes(dataDir: string, spec: Deployment): Promise<void> {
  for (const volume of spec.volumes) {
    try {
      await makeFolder(volumeFolder(dataDir, spec.id, volume.name));
    } catch (error) {
      if (errorCode(error) === "ENOSPC") throw error;
      throw new Refusal("VOLUME_FAILED", `volume ${volume.name}: ${message(error)}`, true);
    }
  }
}

/** Removes a deployment's volumes: those that are not kept, or with `all` whatever is there. */
export async function removeVolumes(
  dataDir: string,
  deploymentId: string,
  keeping: VolumeKeeping,
  all: boolean,
): Promise<void> {
  const folder = join(dataDir, "volumes", deploymentId);
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    if (isMissing(error)) return;
    throw error;
  }
  for (const name of names) {
    // A volume that nobody remembers was kept once: only an explicit wish removes it.
    if (all || keeping[name] === false) await rm(join(folder, name), { recursive: true, force: true });
  }
  try {
    await rmdir(folder);
  } catch (error) {
    if (errorCode(error) !== "ENOTEMPTY") throw error; // kept volumes are in it
  }
}

/**
 * Fills the folder that the process starts in: a link for each volume, a
 * read-only copy of each file. Safe to do again.
 */
export async function fillFolder(
  dataDir: string,
  folder: string,
  workload: Workload,
  spec: Pick<Deployment, "id" | "files">,
  secrets: Opened,
): Promise<void> {
  await makeFolder(folder);
  for (const { source, path } of workload.mounts) {
    const target = join(folder, mountTarget(path) ?? "");
    await mkdir(dirname(target), { recursive: true });
    await rm(target, { recursive: true, force: true });
    if (source.case === "volume") {
      await symlink(volumeFolder(dataDir, spec.id, source.value), target);
    } else if (source.case === "file") {
      const file = spec.files.find(({ name }) => name === source.value);
      const secret = file?.secret ?? "";
      const content = secret === "" ? file?.content : secrets[secret];
      // Of a secret only the agent's user reads, whatever the spec says: here that is the process's, too.
      const others = secret === "" ? 0o555 : 0o500;
      await writeFile(target, content ?? new Uint8Array(), { mode: 0o600 });
      // Writing is never allowed, as with every runtime; the owner may always read.
      await chmod(target, ((file?.mode === 0 ? undefined : file?.mode) ?? defaultFileMode) & others);
    }
  }
}

/** True if there is a folder at `path` itself, not a link to one. */
export async function isFolder(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isDirectory();
  } catch {
    return false; // whatever it is, it is not a folder that we can use
  }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
