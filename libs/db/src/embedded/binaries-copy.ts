/**
 * A copy of PostgreSQL's programs for a user who cannot reach the npm package,
 * for example in a checkout below /root. Made once per version.
 */
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Binaries } from "./binaries.ts";
import { EmbeddedPostgresError } from "./errors.ts";
import { allows, barrierFor, type User } from "./reach.ts";

/** The copy (60 MB) lives here, or below the temporary folder where this cannot be written. */
const systemCache = "/var/cache/bowline";

/**
 * The folder of programs that `user` can use: the package's own, else the copy.
 * Called by root only. Throws POSTGRES_BINARIES_MISSING.
 */
export function reachableBinaries(binaries: Binaries, user: User): string {
  const usable = (root: string) =>
    barrierFor(user, join(root, "bin")) === undefined &&
    allows(user, join(root, "bin", "postgres"), 0o5) &&
    allows(user, join(root, "lib", "libpq.so.5"), 0o4);
  if (usable(binaries.root)) return binaries.root;

  const name = `postgres-${binaries.packageVersion}-${process.arch}`;
  for (const base of [systemCache, join(tmpdir(), "bowline-cache")]) {
    const copy = join(base, name);
    try {
      mkdirSync(base, { recursive: true, mode: 0o755 });
      if (!belongsToRoot(base)) continue;
      if (!existsSync(copy)) copyTo(copy, binaries);
      if (usable(copy)) return copy;
    } catch {
      continue; // Not writable or full; the next place may do.
    }
  }
  throw new EmbeddedPostgresError(
    "POSTGRES_BINARIES_MISSING",
    `user ${user.uid}, whom PostgreSQL has to run as, cannot read ${binaries.root}, and neither ${systemCache} ` +
      `nor ${tmpdir()} can hold a copy: install Bowline in a folder that every user can read`,
  );
}

/** Whole or not at all: a start that is killed here leaves a folder of another name. */
function copyTo(copy: string, binaries: Binaries): void {
  const unfinished = `${copy}.${process.pid}`;
  try {
    cpSync(binaries.root, unfinished, { recursive: true, verbatimSymlinks: true });
    openToAll(unfinished);
    renameSync(unfinished, copy);
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true });
    if (!existsSync(copy)) throw error; // Else another start was faster.
  }
}

/** Programs that root starts must come from a folder that only root can write. */
function belongsToRoot(folder: string): boolean {
  const stats = statSync(folder);
  return stats.isDirectory() && stats.uid === 0 && (stats.mode & 0o022) === 0;
}

function openToAll(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (entry.isSymbolicLink()) continue;
    const path = join(entry.parentPath, entry.name);
    const enter = entry.isDirectory() || (statSync(path).mode & 0o100) !== 0;
    chmodSync(path, enter ? 0o755 : 0o644);
  }
  chmodSync(folder, 0o755);
}
