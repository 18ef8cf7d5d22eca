/** CPU time and memory of other processes, as Linux counts them. */
import { readdir, readFile } from "node:fs/promises";

/** The kernel counts CPU time in hundredths of a second. */
const tickMs = 10;

/** User and system time of a process so far, ms; `ended`: with its children that have ended. */
export async function cpuMs(pid: number, ended = false): Promise<number> {
  const [user = 0, system = 0, endedUser = 0, endedSystem = 0] = (await statOf(pid)).slice(11, 15).map(Number);
  return (user + system + (ended ? endedUser + endedSystem : 0)) * tickMs;
}

/** A process and all below it, ms: PostgreSQL's postmaster with its backends. */
export async function treeCpuMs(root: number): Promise<number> {
  const children = new Map<number, number[]>();
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const parent = Number((await statOf(Number(entry)).catch(() => []))[1] ?? 0); // ended while we looked
    children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
  }
  const below = (pid: number): number[] => [pid, ...(children.get(pid) ?? []).flatMap(below)];
  let sum = 0;
  for (const pid of below(root)) sum += await cpuMs(pid, true).catch(() => 0); // the same
  return sum;
}

/** Memory of its own, bytes: what would be free without it. */
export async function residentBytes(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(/^Pss:\s+(\d+)/m.exec(text)?.[1] ?? Number.NaN) * 1024;
}

/** The fields of /proc/PID/stat after the name, which may hold blanks: [0] is the state. */
async function statOf(pid: number): Promise<string[]> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8");
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}
