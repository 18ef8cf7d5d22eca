/**
 * Who PostgreSQL runs as. It refuses to run as root, so:
 *
 *   an ordinary user         as that user
 *   root                     in a user namespace where root's own user is called
 *                            1000: files stay root's, and folders of mode 0700 stay reachable
 *   root, no namespaces or   as another user, from a copy of the programs where
 *   a foreign 0700 folder    that user can't reach them in place
 *
 * In each case `setpriv --pdeathsig` has the kernel interrupt PostgreSQL when
 * this process dies, `kill -9` included; where setpriv is missing, the next
 * start finds the survivor (survivor.ts).
 */
import { execFile } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import type { Binaries } from "./binaries.ts";
import { EmbeddedPostgresError } from "./errors.ts";

export type RunAs = {
  kind: "self" | "user-namespace" | "other-user";
  /** Put before every program and its arguments. */
  prefix: readonly string[];
  /** For `spawn`: set only when PostgreSQL runs as another user. */
  identity: { uid?: number; gid?: number };
  /** Owns what PostgreSQL writes. */
  owner: { uid: number; gid: number };
  /** Where the programs are; a copy if the user cannot reach the npm package. */
  binariesRoot: string;
  /** Whether the kernel stops PostgreSQL when this process dies. */
  endsWithUs: boolean;
};

/** What this machine allows; asked once per start. */
export type Abilities = { uid: number; gid: number; userNamespaces: boolean; setpriv: boolean };

/** Nothing of ours comes from the caller's environment: PGDATA, PGOPTIONS and their like would change the server. */
export const childEnvironment = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C", TZ: "UTC" } as const;

const namespacePrefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"];
const setprivPrefix = ["setpriv", "--pdeathsig", "INT"];

/**
 * Taken where root's folder has no other owner to offer. Chosen to belong to
 * nobody on common systems: with `nobody` PostgreSQL would share its files
 * with every other program that was made harmless that way.
 */
const fallbackId = 61_543;

/** A copy of the programs lives here, or below the temporary folder where this cannot be written. */
const systemCache = "/var/cache/bowline";

/** A probe is a program that ends at once; longer means that something hangs. */
const probeTimeoutMs = 5_000;

const run = promisify(execFile);

export async function findAbilities(): Promise<Abilities> {
  const works = async (command: readonly string[]) => {
    const [program = "", ...args] = command;
    try {
      await run(program, args, { env: childEnvironment, timeout: probeTimeoutMs });
      return true;
    } catch {
      return false; // Missing, too old for the option, or forbidden: all mean "do without".
    }
  };
  const uid = process.getuid?.() ?? -1;
  const [userNamespaces, setpriv] = await Promise.all([
    uid === 0 ? works([...namespacePrefix, "true"]) : false,
    works([...setprivPrefix, "true"]),
  ]);
  return { uid, gid: process.getgid?.() ?? -1, userNamespaces, setpriv };
}

/** Throws DATA_DIRECTORY_UNREACHABLE. `dataDir` is absolute and exists. */
export function chooseRunAs(dataDir: string, binaries: Binaries, abilities: Abilities): RunAs {
  const { uid, gid, userNamespaces, setpriv } = abilities;
  const pdeathsig = setpriv ? setprivPrefix : [];
  if (uid !== 0) {
    return {
      kind: "self",
      prefix: pdeathsig,
      identity: {},
      owner: { uid, gid },
      binariesRoot: binaries.root,
      endsWithUs: setpriv,
    };
  }
  const root = { uid: 0, gid: 0 };
  if (userNamespaces && unreachableFor(root, dirname(dataDir)) === undefined) {
    return {
      kind: "user-namespace",
      prefix: [...namespacePrefix, ...pdeathsig],
      identity: {},
      owner: root,
      binariesRoot: reachableBinaries(binaries, root),
      endsWithUs: setpriv,
    };
  }
  const owner = nearestOwner(dirname(dataDir));
  const barrier = unreachableFor(owner, dirname(dataDir));
  if (barrier !== undefined) {
    throw new EmbeddedPostgresError(
      "DATA_DIRECTORY_UNREACHABLE",
      `PostgreSQL refuses to run as root, user namespaces are not allowed here, and user ${owner.uid} ` +
        `cannot enter ${barrier}: choose a data directory that every user can reach, for example /var/lib/bowline`,
    );
  }
  return {
    kind: "other-user",
    prefix: pdeathsig,
    identity: owner,
    owner,
    binariesRoot: reachableBinaries(binaries, owner),
    endsWithUs: setpriv,
  };
}

type User = { uid: number; gid: number };

/** The first folder on the way to `folder` that `user` cannot enter without a capability. */
function unreachableFor(user: User, folder: string): string | undefined {
  const way = [resolve(folder)];
  while (dirname(way[0] ?? "/") !== way[0]) way.unshift(dirname(way[0] ?? "/"));
  return way.find((step) => !allows(user, step, 0o1));
}

function allows(user: User, path: string, bit: number): boolean {
  const { uid, gid, mode } = statSync(path);
  if (uid === user.uid) return (mode & (bit << 6)) !== 0;
  if (gid === user.gid) return (mode & (bit << 3)) !== 0;
  return (mode & bit) !== 0;
}

/** A folder of root's belongs to nobody in particular; anyone else's says who works there. */
function nearestOwner(folder: string): User {
  const { uid, gid } = statSync(folder);
  if (uid !== 0) return { uid, gid };
  const parent = dirname(folder);
  return parent === folder ? { uid: fallbackId, gid: fallbackId } : nearestOwner(parent);
}

/** The package's own folder where `user` can use it, else a copy that is made once. */
function reachableBinaries(binaries: Binaries, user: User): string {
  const bin = join(binaries.root, "bin");
  const usable = (root: string) =>
    unreachableFor(user, join(root, "bin")) === undefined &&
    allows(user, join(root, "bin", "postgres"), 0o5) &&
    allows(user, join(root, "lib", "libpq.so.5"), 0o4);
  if (existsSync(bin) && usable(binaries.root)) return binaries.root;

  const name = `postgres-${binaries.packageVersion}-${process.arch}`;
  for (const base of [systemCache, join(tmpdir(), "bowline-cache")]) {
    try {
      const copy = join(base, name);
      if (isOurs(base) && existsSync(copy)) return copy;
      mkdirSync(base, { recursive: true, mode: 0o755 });
      if (!isOurs(base)) continue;
      const unfinished = `${copy}.${process.pid}`;
      cpSync(binaries.root, unfinished, { recursive: true, verbatimSymlinks: true });
      openToAll(unfinished);
      try {
        renameSync(unfinished, copy);
      } catch (error) {
        rmSync(unfinished, { recursive: true, force: true });
        if (!existsSync(copy)) throw error; // Else another start was faster.
      }
      if (unreachableFor(user, copy) === undefined) return copy;
    } catch {
      continue; // Not writable; the next place may be.
    }
  }
  throw new EmbeddedPostgresError(
    "POSTGRES_BINARIES_MISSING",
    `user ${user.uid}, whom PostgreSQL has to run as, cannot read ${binaries.root}, and neither ${systemCache} ` +
      `nor ${tmpdir()} can hold a copy: install Bowline in a folder that every user can read`,
  );
}

/** Programs that root starts must come from a folder that only root can write. */
function isOurs(folder: string): boolean {
  const stats = statSync(folder, { throwIfNoEntry: false });
  return stats !== undefined && stats.isDirectory() && stats.uid === 0 && (stats.mode & 0o022) === 0;
}

function openToAll(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true, recursive: true })) {
    if (entry.isSymbolicLink()) continue;
    const file = join(entry.parentPath, entry.name);
    const executable = entry.isDirectory() || (statSync(file).mode & 0o100) !== 0;
    chmodSync(file, executable ? 0o755 : 0o644);
  }
  chmodSync(path, 0o755);
}

/**
 * Gives `folder` and all in it to PostgreSQL's user: after a change of the way
 * it runs, it would refuse files of its former user.
 */
export function giveTo(owner: User, folder: string): void {
  const { uid, gid } = statSync(folder);
  if (uid === owner.uid && gid === owner.gid) return;
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isSymbolicLink()) chownSync(join(entry.parentPath, entry.name), owner.uid, owner.gid);
  }
  chownSync(folder, owner.uid, owner.gid);
}
