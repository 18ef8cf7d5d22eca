/**
 * Who PostgreSQL runs as. It refuses to run as root, so:
 *
 *   an ordinary user         as that user
 *   root                     in a user namespace where root has an ordinary user's
 *                            number: files stay root's, and folders of mode 0700 stay reachable
 *   root, no namespaces or   as another user, from a copy of the programs where
 *   a foreign 0700 folder    that user can't reach them in place
 *
 * In each case `setpriv --pdeathsig` has the kernel interrupt PostgreSQL when
 * this process dies, `kill -9` included; where setpriv is missing, the next
 * start finds the survivor (survivor.ts).
 *
 * initdb, unlike the server, insists that its user has a name in /etc/passwd.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { promisify } from "node:util";
import type { Binaries } from "./binaries.ts";
import { reachableBinaries } from "./binaries-copy.ts";
import { EmbeddedPostgresError } from "./errors.ts";
import { barrierFor, nearestOwner, type User } from "./reach.ts";

/** How a program is started. */
export type Launch = {
  /** Put before the program and its arguments. */
  prefix: readonly string[];
  /** For `spawn`: set only where the program runs as another user. */
  identity: { uid?: number; gid?: number };
  /** Owns what the program writes. */
  files: User;
};

export type RunAs = {
  kind: "self" | "user-namespace" | "other-user";
  server: Launch;
  /** initdb, by a user who has a name; the server's, wherever that one has. */
  creation: Launch;
  /** Where the programs are; a copy if the user cannot reach the npm package. */
  binariesRoot: string;
  /** Whether the kernel stops PostgreSQL when this process dies. */
  endsWithUs: boolean;
};

/** What this machine allows; asked once per start. */
export type Abilities = { uid: number; gid: number; userNamespaces: boolean; setpriv: boolean };

/** Nothing of ours comes from the caller's environment: PGDATA, PGOPTIONS and their like would change the server. */
export const childEnvironment = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C", TZ: "UTC" } as const;

const setprivPrefix = ["setpriv", "--pdeathsig", "INT"];

/**
 * Taken where root's folder has no other owner to offer. Chosen to belong to
 * nobody on common systems: with `nobody` PostgreSQL would share its files
 * with every other program that was made harmless that way.
 */
const fallbackUser: User = { uid: 61_543, gid: 61_543 };

/** The first choice where a user with a name is needed; any other named one does. */
const preferredNames = [1000, 65_534];

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
    uid === 0 || !hasName(uid) ? works([...namespacePrefix(), "true"]) : false,
    works([...setprivPrefix, "true"]),
  ]);
  return { uid, gid: process.getgid?.() ?? -1, userNamespaces, setpriv };
}

/**
 * Throws DATA_DIRECTORY_UNREACHABLE. `dataDir` is absolute and exists;
 * `mustCreate` tells whether it has no database yet.
 */
export function chooseRunAs(dataDir: string, mustCreate: boolean, binaries: Binaries, abilities: Abilities): RunAs {
  const { uid, gid, userNamespaces, setpriv: endsWithUs } = abilities;
  const pdeathsig: readonly string[] = endsWithUs ? setprivPrefix : [];
  const self = { uid, gid };
  const plain: Launch = { prefix: pdeathsig, identity: {}, files: self };
  const inNamespace: Launch = { prefix: [...namespacePrefix(), ...pdeathsig], identity: {}, files: self };

  if (uid !== 0) {
    const creation = userNamespaces && !hasName(uid) ? inNamespace : plain;
    return { kind: "self", server: plain, creation, binariesRoot: binaries.root, endsWithUs };
  }
  const parent = dirname(dataDir);
  if (userNamespaces && barrierFor(self, parent) === undefined) {
    const binariesRoot = reachableBinaries(binaries, self);
    return { kind: "user-namespace", server: inNamespace, creation: inNamespace, binariesRoot, endsWithUs };
  }
  const owner = nearestOwner(parent) ?? fallbackUser;
  const as = (user: User, prefix = pdeathsig): Launch => ({ prefix, identity: user, files: user });
  const creation = hasName(owner.uid) ? as(owner) : userNamespaces ? as(owner, inNamespace.prefix) : as(namedUser());
  for (const user of mustCreate ? [owner, creation.files] : [owner]) {
    const barrier = barrierFor(user, parent);
    if (barrier === undefined) continue;
    throw new EmbeddedPostgresError(
      "DATA_DIRECTORY_UNREACHABLE",
      `PostgreSQL refuses to run as root, user namespaces are not allowed or do not help here, and user ${user.uid} ` +
        `cannot enter ${barrier}: choose a data directory that every user can reach, for example /var/lib/bowline`,
    );
  }
  const binariesRoot = reachableBinaries(binaries, owner);
  return { kind: "other-user", server: as(owner), creation, binariesRoot, endsWithUs };
}

/** `unshare` maps this process's own user to that number; inside, PostgreSQL sees a named, ordinary user. */
function namespacePrefix(): string[] {
  const { uid } = namedUser();
  return ["unshare", "--user", `--map-user=${uid}`, `--map-group=${uid}`];
}

function namedUser(): User {
  const names = namedUsers();
  const uid = preferredNames.find((preferred) => names.has(preferred)) ?? [...names.keys()].find((id) => id !== 0);
  // A machine whose only name is root's cannot create a database; initdb will say so.
  return uid === undefined ? { uid: 1000, gid: 1000 } : { uid, gid: names.get(uid) ?? uid };
}

function hasName(uid: number): boolean {
  return namedUsers().has(uid);
}

/** uid to gid. Users of a directory service are not here; where it matters, another one does. */
function namedUsers(): Map<number, number> {
  let text = "";
  try {
    text = readFileSync("/etc/passwd", "utf8");
  } catch {
    // A container without the file: nobody has a name.
  }
  const users = new Map<number, number>();
  for (const line of text.split("\n")) {
    const [, , uid, gid] = line.split(":");
    if (uid !== undefined && gid !== undefined) users.set(Number(uid), Number(gid));
  }
  return users;
}
