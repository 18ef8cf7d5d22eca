/**
 * The folders of one embedded PostgreSQL:
 *
 *   <dataDir>/lock, lock.pid   who uses it (lock.ts)
 *   <dataDir>/data/            PostgreSQL's own; data.new-* while it is being created
 *   <dataDir>/postgres.log     its log, with postgres.log.1 before it
 *   <dataDir>/run/             its socket, mode 0700: whoever can enter is let in
 *   <dataDir>/run.path         where the socket is instead, if the path above is too long
 */
import {
  accessSync,
  chmodSync,
  chownSync,
  constants,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { EmbeddedPostgresError, systemCode } from "./errors.ts";
import type { RunAs } from "./run-as.ts";
import { socketPort } from "./settings.ts";

/** sockaddr_un holds 108 bytes, the last of them zero. */
const maxSocketPathBytes = 107;

/** Only folders of this name are ever removed from the temporary folder. */
const temporaryPrefix = "bowline-pg-";

/** Creates `dataDir` if needed and returns its real path. Throws DATA_DIRECTORY_NOT_WRITABLE. */
export function prepareDataDir(dataDir: string): string {
  const folder = resolve(dataDir);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK);
    return realpathSync(folder);
  } catch (error) {
    throw new EmbeddedPostgresError(
      "DATA_DIRECTORY_NOT_WRITABLE",
      `${folder} cannot be used as a data directory (${words(error)}): choose a folder that this user can write`,
      error,
    );
  }
}

function words(error: unknown): string {
  switch (systemCode(error)) {
    case "EROFS":
      return "the file system is read-only";
    case "EACCES":
    case "EPERM":
      return "permission denied";
    case "ENOTDIR":
    case "EEXIST":
      return "a file is in the way";
    case "ENOSPC":
      return "no space left on the device";
    default:
      return error instanceof Error ? error.message : String(error);
  }
}

export type SocketFolder = { path: string; remove: () => void };

/**
 * Makes the private folder for the socket: inside `dataDir` where the path is
 * short enough, else below the temporary folder, and written down so that the
 * next start removes what a crash left.
 */
export function makeSocketFolder(dataDir: string, runAs: RunAs): SocketFolder {
  const note = join(dataDir, "run.path");
  removeNoted(note);
  let path = join(dataDir, "run");
  rmSync(path, { recursive: true, force: true });
  if (fits(path)) {
    mkdirSync(path, { mode: 0o700 });
  } else {
    const base = [tmpdir(), "/tmp"].find((candidate) => fits(join(candidate, `${temporaryPrefix}XXXXXX`))) ?? "/tmp";
    path = mkdtempSync(join(base, temporaryPrefix));
    writeFileSync(note, path);
  }
  if (runAs.kind === "other-user") {
    chownSync(path, runAs.server.files.uid, runAs.server.files.gid);
    chmodSync(dataDir, 0o711); // PostgreSQL's user passes through; what is inside stays closed.
  }
  return {
    path,
    remove: () => {
      rmSync(path, { recursive: true, force: true });
      rmSync(note, { force: true });
    },
  };
}

function fits(folder: string): boolean {
  return Buffer.byteLength(join(folder, `.s.PGSQL.${socketPort}`)) <= maxSocketPathBytes;
}

function removeNoted(note: string): void {
  let path: string;
  try {
    path = readFileSync(note, "utf8");
  } catch {
    return; // Nothing was left behind.
  }
  const parent = dirname(path);
  if (basename(path).startsWith(temporaryPrefix) && (parent === tmpdir() || parent === "/tmp")) {
    rmSync(path, { recursive: true, force: true });
  }
  rmSync(note, { force: true });
}
