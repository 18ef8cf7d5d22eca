/** Temporary folders that end with the test, and with nobody in them. */
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { atEnd } from "./endings.ts";
import { until } from "./until.ts";

/** A process that is about to end may still write; rm then finds its folder not empty. */
const removeRetries = 20;
const removeRetryDelayMs = 50;

/** What was told to end has its graces; a workload that nobody told lives on. */
const emptyWithinMs = 15_000;

/**
 * Makes an empty folder of mode 0700 and returns its real path; it is removed
 * at the end. A process that still works in it then fails the test: workloads
 * outlive the agent that started them, and nobody else would find them.
 */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(realpathSync(tmpdir()), "bowline-test-"));
  atEnd(async () => {
    try {
      await until(() => processesIn(folder).length === 0, {
        withinMs: emptyWithinMs,
        what: "nobody works in a test's folder any more",
      });
    } catch {
      throw new Error(`the test leaves processes behind:\n  ${processesIn(folder).join("\n  ")}`);
    } finally {
      await removeFolder(folder);
    }
  });
  return folder;
}

/** Pid and command line of each process whose working directory is in `folder`; none where there is no /proc. */
function processesIn(folder: string): string[] {
  let entries: string[];
  try {
    entries = readdirSync("/proc");
  } catch {
    return []; // Not Linux.
  }
  return entries.flatMap((pid) => {
    try {
      const cwd = readlinkSync(`/proc/${pid}/cwd`);
      if (cwd !== folder && !cwd.startsWith(`${folder}/`)) return [];
      return [`${pid} ${readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim()}`];
    } catch {
      return []; // Not a process, gone meanwhile, or a zombie.
    }
  });
}

/** Removes a folder and all in it, also while its last writer is ending. */
export async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true, maxRetries: removeRetries, retryDelay: removeRetryDelayMs });
}
