/**
 * What a test file leaves behind: child processes, and handles that would keep
 * its process alive (sockets, servers, pipes, timers, watchers, workers).
 * Databases left open are found where they are dropped (postgres.ts), and
 * folders are removed by whoever made them (folders.ts).
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export type Snapshot = { children: Map<number, string>; handles: WeakSet<object>; timers: number };

/**
 * A closed socket and a killed child are gone a few turns of the event loop
 * later; on a busy machine the graces of what was closed (2 s and more) add up.
 */
const settleWithinMs = 12_000;
const lookEveryMs = 20;
/** And so many looks: a process that stood still for the time above has closed nothing in it. */
const looksAtLeast = 50;

export function takeSnapshot(): Snapshot {
  // Node opens these when they are first touched: by a warning of some library, or by whoever imports all of `process`.
  void [process.stdin, process.stdout, process.stderr];
  return { children: childrenOf(process.pid), handles: new WeakSet(openHandles()), timers: runningTimers() };
}

/**
 * Waits until nothing is left that was not there `before`. Returns what is
 * left after all, one line each, for people; empty if all is gone.
 */
export async function findLeaks(before: Snapshot): Promise<string[]> {
  const giveUpAt = performance.now() + settleWithinMs;
  for (let looks = 1; ; looks += 1) {
    const leaks = since(before);
    if (leaks.length === 0 || (looks >= looksAtLeast && performance.now() > giveUpAt)) return leaks;
    await sleep(lookEveryMs, undefined, { ref: false });
  }
}

function since(before: Snapshot): string[] {
  const leaks: string[] = [];
  for (const [pid, command] of childrenOf(process.pid)) {
    if (!before.children.has(pid)) leaks.push(`the process ${pid} still runs: ${command}`);
  }
  for (const handle of openHandles()) {
    if (!before.handles.has(handle)) leaks.push(`still open: ${describe(handle)}`);
  }
  const timers = runningTimers() - before.timers;
  if (timers > 0) leaks.push(`${timers} timers still run`);
  return leaks;
}

/** Timers have no handle of their own in Node; jest's own are few, so that the number tells. */
function runningTimers(): number {
  return process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
}

/**
 * The documented `getActiveResourcesInfo` has only the kinds, and jest's own
 * pipes come and go among them; this has the objects, so that each is known again.
 */
function openHandles(): object[] {
  const { _getActiveHandles } = process as unknown as { _getActiveHandles: () => object[] };
  return _getActiveHandles.call(process);
}

function describe(handle: object): string {
  const kind = handle.constructor.name;
  if ("spawnargs" in handle) return `${kind} of ${(handle.spawnargs as string[]).join(" ")}`;
  if ("remotePort" in handle && handle.remotePort !== undefined) {
    const socket = handle as { localPort?: number; remoteAddress?: string; remotePort: number };
    return `${kind} from port ${socket.localPort} to ${socket.remoteAddress}:${socket.remotePort}`;
  }
  const { _handle: inner } = handle as { _handle?: { fd?: number; constructor: { name: string } } | null };
  const of = inner === undefined || inner === null ? "" : ` (${inner.constructor.name}, file ${inner.fd ?? "closed"})`;
  if ("address" in handle && typeof handle.address === "function")
    return `${kind} at ${JSON.stringify(handle.address())}${of}`;
  return `${kind}${of}`;
}

/** The living children of a process with their command lines; empty where there is no /proc. */
export function childrenOf(parent: number): Map<number, string> {
  const children = new Map<number, string>();
  let entries: string[];
  try {
    entries = readdirSync("/proc");
  } catch {
    return children; // Not Linux: handles are still compared.
  }
  for (const entry of entries) {
    const pid = Number(entry);
    if (!Number.isInteger(pid)) continue;
    try {
      // After the name, which may hold blanks and parentheses: state, parent, …
      const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
      if (Number(fields[1]) !== parent || fields[0] === "Z") continue;
      children.set(pid, readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim().slice(0, 200));
    } catch {
      continue; // It ended while we looked.
    }
  }
  return children;
}
