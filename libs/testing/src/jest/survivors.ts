/**
 * Processes that outlive a jest run that was killed, or interrupted so that no
 * test came to its end: whatever it started has the run's mark in its
 * environment, also what has left its process group. What an agent runs has
 * not, since an agent gives its workloads no environment of its own: a data
 * plane can stay. Nothing where there is no /proc.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** A PostgreSQL whose clients are gone ends well below it; whoever pressed Ctrl-C does not want to wait long. */
const terminateMs = 3_000;
const lookEveryMs = 100;
/** One that is killed may have had a child that nobody had seen yet, and on a busy machine takes a while to go. */
const killMs = 10_000;

/** SIGTERM, then SIGKILL, to all whose environment has this variable with this value. Resolves when they are gone, or won't go. */
export async function endSurvivors(variable: string, value: string): Promise<void> {
  const mark = `${variable}=${value}`;
  const giveUpAt = performance.now() + terminateMs;
  for (const pid of marked(mark)) signal(pid, "SIGTERM");
  while (marked(mark).length > 0 && performance.now() < giveUpAt) await sleep(lookEveryMs);
  for (const since = performance.now(); performance.now() - since < killMs;) {
    const left = marked(mark);
    if (left.length === 0) return;
    for (const pid of left) signal(pid, "SIGKILL");
    await sleep(lookEveryMs);
  }
}

/** Not those that have ended and wait for their parent: they have no environment any more. */
function marked(mark: string): number[] {
  let entries: string[];
  try {
    entries = readdirSync("/proc");
  } catch {
    return []; // Not Linux.
  }
  return entries.map(Number).filter((pid) => Number.isInteger(pid) && pid !== process.pid && has(pid, mark));
}

function has(pid: number, mark: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").includes(mark);
  } catch {
    return false; // It ended while we looked, or is another user's.
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended meanwhile.
  }
}
