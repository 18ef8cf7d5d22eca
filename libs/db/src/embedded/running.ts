/** Finds an embedded PostgreSQL that another process runs. */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { lockFolder } from "./lock.ts";
import { databaseName, type EmbeddedConnection, roleName, socketPort } from "./settings.ts";

/** Line of `postmaster.pid` that has the folder of the socket. */
const socketFolderLine = 4;

export type EmbeddedState =
  /** A server holds it. It may be starting still, and not take connections yet. */
  | { kind: "running"; connection: EmbeddedConnection }
  /** There is a database, and nobody uses it. */
  | { kind: "stopped" }
  /** There is none. */
  | { kind: "none" };

/** Looks at a data folder; changes nothing. */
export function findEmbeddedPostgres(dataDir: string): EmbeddedState {
  const folder = resolve(dataDir);
  if (!existsSync(join(folder, "data"))) return { kind: "none" };
  const lock = lockFolder(folder);
  if (lock.held) {
    lock.release();
    return { kind: "stopped" };
  }
  return {
    kind: "running",
    connection: { host: socketFolderOf(folder), port: socketPort, user: roleName, database: databaseName },
  };
}

function socketFolderOf(folder: string): string {
  try {
    const lines = readFileSync(join(folder, "data", "postmaster.pid"), "utf8").split("\n");
    if (lines[socketFolderLine]) return lines[socketFolderLine];
  } catch {
    // It is starting or stopping; where it usually is, it will be, or the connection is refused.
  }
  return join(folder, "run");
}
