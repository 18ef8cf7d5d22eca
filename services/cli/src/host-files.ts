/** Files of this host that `agent install` and `agent uninstall` look at and write, and whose they are. */
import { access, chmod, lstat, mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { dirname, join } from "node:path";
import { usage } from "./failure.ts";

/** A file that is to be. */
export type PlannedFile = { path: string; mode: number; content: string };

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false, // whatever the reason: it cannot be used
  );
}

/** Whole or not at all, and never readable to others in between. */
export async function writeWhole(file: PlannedFile): Promise<void> {
  await mkdir(dirname(file.path), { recursive: true });
  const beside = `${file.path}.new`;
  await writeFile(beside, file.content, { mode: 0o600 });
  await chmod(beside, file.mode);
  await rename(beside, file.path);
}

/** Ids of a user of this host. Throws a usage failure, NO_SUCH_USER. */
export async function idsOf(user: string): Promise<{ uid: number; gid: number }> {
  const line = (await readFile("/etc/passwd", "utf8")).split("\n").find((one) => one.startsWith(`${user}:`));
  const [, , uid, gid] = line?.split(":") ?? [];
  if (uid !== undefined && gid !== undefined) return { uid: Number(uid), gid: Number(gid) };
  if (userInfo().username === user) return { uid: userInfo().uid, gid: userInfo().gid };
  throw usage(`There is no user ${user} on this host.`, {
    reason: "NO_SUCH_USER",
    lines: [`Make one: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin ${user}`],
  });
}

/** The agent's own files are not deeper; below are volumes, whose files may be anybody's. */
const ownFilesDepth = 2;

/** The first thing in a folder of an agent that is not this user's; undefined where there is none, or no such folder. */
export async function foreignEntry(folder: string, uid: number, depth = ownFilesDepth): Promise<string | undefined> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  for (const name of names.toSorted((a, b) => (a < b ? -1 : 1))) {
    const path = join(folder, name);
    const found = await lstat(path);
    if (found.uid !== uid) return path;
    const below = found.isDirectory() && depth > 1 ? await foreignEntry(path, uid, depth - 1) : undefined;
    if (below !== undefined) return below;
  }
  return undefined;
}
