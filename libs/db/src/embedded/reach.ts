/** Who can enter, read and own what, asked for a user that is not this process's own. */
import { chownSync, readdirSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

export type User = { uid: number; gid: number };

/** The first folder on the way to `folder` that `user` cannot enter without a capability. */
export function barrierFor(user: User, folder: string): string | undefined {
  const way = [resolve(folder)];
  for (let parent = dirname(resolve(folder)); parent !== way[0]; parent = dirname(parent)) way.unshift(parent);
  return way.find((step) => !allows(user, step, 0o1));
}

/** Whether `user` has the permission `bits` (4 read, 2 write, 1 enter or execute) on `path`. */
export function allows(user: User, path: string, bits: number): boolean {
  const { uid, gid, mode } = statSync(path);
  const shift = uid === user.uid ? 6 : gid === user.gid ? 3 : 0;
  return (mode & (bits << shift)) === bits << shift;
}

/** The owner of `folder` or of the nearest folder above that is not root's: it says who works there. */
export function nearestOwner(folder: string): User | undefined {
  const { uid, gid } = statSync(folder);
  if (uid !== 0) return { uid, gid };
  const parent = dirname(folder);
  return parent === folder ? undefined : nearestOwner(parent);
}

/** Gives `folder` and all in it to `owner`; nothing to do in the usual case that it is so already. */
export function giveTo(owner: User, folder: string): void {
  const { uid, gid } = statSync(folder);
  if (uid === owner.uid && gid === owner.gid) return;
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isSymbolicLink()) chownSync(join(entry.parentPath, entry.name), owner.uid, owner.gid);
  }
  chownSync(folder, owner.uid, owner.gid);
}
