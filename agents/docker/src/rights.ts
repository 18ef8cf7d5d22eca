/**
 * An agent's image may be started as root, where nobody knows the group of the
 * engine's socket beforehand (a Compose file). It stays root no longer than it
 * takes to look.
 *
 * T1: it becomes the owner of its data folder, with the one group that the
 *     socket asks for, and without a way back.
 * T2: where only root may reach the engine it stays root: less would not work,
 *     and whoever reaches an engine owns its host anyway.
 */
import { accessSync, constants, lchownSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

/** Whom the process may become. */
export interface OtherUser {
  uid: number;
  gid: number;
  /** Besides its own: the socket's. */
  groups: number[];
}

export interface Places {
  dataDir: string;
  docker: { host?: string; certificates?: string };
}

const groupMayUse = 0o060;
const othersMayUse = 0o006;

/** Undefined: it had better stay who it is (T2). Reads only. */
export function otherUser({ dataDir, docker }: Places): OtherUser | undefined {
  const folder = statSync(dataDir, { throwIfNoEntry: false });
  if (folder === undefined || folder.uid === 0) return undefined; // nobody else's
  const { uid, gid } = folder;
  const host = docker.host ?? "unix:///var/run/docker.sock";
  if (!host.startsWith("unix://")) return mayRead(docker.certificates, uid) ? { uid, gid, groups: [] } : undefined;
  const socket = statSync(host.slice("unix://".length), { throwIfNoEntry: false });
  if (socket === undefined) return { uid, gid, groups: [] }; // told by who dials it
  if ((socket.mode & othersMayUse) === othersMayUse || socket.uid === uid) return { uid, gid, groups: [] };
  return (socket.mode & groupMayUse) === groupMayUse ? { uid, gid, groups: [socket.gid] } : undefined;
}

/** Whether the files for TLS can be read by that user too. */
function mayRead(certificates: string | undefined, uid: number): boolean {
  if (certificates === undefined) return true;
  try {
    accessSync(certificates, constants.R_OK);
    return readdirSync(certificates).every((name) => {
      const file = statSync(join(certificates, name));
      return file.uid === uid || (file.mode & 0o004) !== 0;
    });
  } catch {
    return true; // told by who reads them
  }
}

/** T1. What an earlier start as root left in the folder goes to its owner. */
export function become({ uid, gid, groups }: OtherUser, dataDir: string): void {
  process.setgroups?.(groups); // first, because it is what a container without capabilities is refused
  for (const name of readdirSync(dataDir, { recursive: true })) lchownSync(join(dataDir, String(name)), uid, gid);
  process.setgid?.(gid);
  process.setuid?.(uid);
}
