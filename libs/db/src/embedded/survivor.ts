/**
 * A PostgreSQL that outlived its server: where the kernel cannot stop it for
 * us (run-as.ts), or when the next start comes while it is still shutting down.
 * It is stopped, not adopted: a child's end is seen at once, a stranger's is not.
 *
 * Called with the folder's lock held (lock.ts K1), so no server of ours is
 * using what is found here.
 */
import { readFileSync, realpathSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EmbeddedPostgresError, systemCode } from "./errors.ts";
import { clusterName } from "./settings.ts";

/** A fast shutdown writes at most the shared buffers (32 MB); the second signal needs no disk. */
const fastShutdownMs = 10_000;
const immediateShutdownMs = 5_000;

/** Between two looks whether a stranger has ended; it has no event. */
const lookEveryMs = 20;

/**
 * Ends what still runs on `dataFolder`. Returns whether there was anything.
 * Throws DATA_DIRECTORY_IN_USE for a PostgreSQL that is not ours, or that won't end.
 */
export async function endSurvivor(dataFolder: string): Promise<boolean> {
  const pidFile = join(dataFolder, "postmaster.pid");
  const pid = readPid(pidFile);
  if (pid === undefined) return false;
  switch (whatIs(pid, dataFolder)) {
    case "gone":
      // PostgreSQL would clean up too, but it takes any living process with this number for its own kind.
      rmSync(pidFile, { force: true });
      return false;
    case "foreign":
      throw new EmbeddedPostgresError(
        "DATA_DIRECTORY_IN_USE",
        `${dataFolder} is in use by a PostgreSQL (process ${pid}) that Bowline did not start: stop it first`,
      );
    case "ours":
      for (const [signal, forMs] of [
        ["SIGINT", fastShutdownMs],
        ["SIGQUIT", immediateShutdownMs],
      ] as const) {
        kill(pid, signal);
        if (await ended(pid, dataFolder, forMs)) return true;
      }
      throw new EmbeddedPostgresError(
        "DATA_DIRECTORY_IN_USE",
        `a PostgreSQL of an earlier server (process ${pid}) still uses ${dataFolder} and does not end: kill it`,
      );
  }
}

async function ended(pid: number, dataFolder: string, withinMs: number): Promise<boolean> {
  const giveUpAt = Date.now() + withinMs;
  while (whatIs(pid, dataFolder) === "ours") {
    if (Date.now() > giveUpAt) return false;
    await sleep(lookEveryMs);
  }
  return true;
}

/**
 * A pid alone proves nothing: it may have been given away since. The command
 * line names the data folder and our mark, or a person's own PostgreSQL.
 */
function whatIs(pid: number, dataFolder: string): "gone" | "ours" | "foreign" {
  let args: string[];
  try {
    args = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch (error) {
    // Hidden (hidepid, another user) is not gone: nothing is deleted on a guess.
    return systemCode(error) === "EACCES" || systemCode(error) === "EPERM" ? "foreign" : "gone";
  }
  const program = args[0] ?? "";
  if (!program.endsWith("postgres") && !program.endsWith("postmaster")) return "gone";
  const folder = args[args.indexOf("-D") + 1] ?? "";
  if (realPath(folder) !== realPath(dataFolder))
    return workingFolder(pid) === realPath(dataFolder) ? "foreign" : "gone";
  return args.includes(`cluster_name=${clusterName}`) ? "ours" : "foreign";
}

/** PostgreSQL works inside its data folder, however it was told about it. */
function workingFolder(pid: number): string | undefined {
  return realPath(`/proc/${pid}/cwd`);
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined; // Gone, or not ours to see: it does not name our folder.
  }
}

function readPid(pidFile: string): number | undefined {
  try {
    const pid = Number.parseInt(readFileSync(pidFile, "utf8"), 10);
    return Number.isSafeInteger(pid) && pid > 1 ? pid : undefined;
  } catch {
    return undefined; // No file: PostgreSQL ended cleanly, or never ran.
  }
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (systemCode(error) !== "ESRCH") throw error; // Gone meanwhile is what we want.
  }
}
