/** What this machine is, and what processes on it use. Linux tells it in /proc; elsewhere nothing is told. */
import { readdir, readFile } from "node:fs/promises";
import { cpus, totalmem } from "node:os";

export function describeMachine(): string {
  const cores = cpus();
  const memory = Math.round(totalmem() / 2 ** 30);
  return `${cores.length} × ${cores[0]?.model ?? "?"}, ${memory} GiB, ${process.platform}, Node ${process.version}`;
}

export interface Use {
  memoryMb: number;
  /** Seconds of CPU since its start. */
  cpuSeconds: number;
}

/** What a server uses, and apart from it what it started: its PostgreSQL. */
export interface ServerUse {
  server: Use;
  database: Use;
}

/** Of Linux: sysconf(_SC_CLK_TCK) is 100 on every architecture that Node runs on. */
const ticksPerSecond = 100;

interface Process {
  pid: number;
  parent: number;
  use: Use;
}

/** Undefined: there is no /proc, or no such process. */
export async function useOf(pid: number): Promise<ServerUse | undefined> {
  const all = await processes().catch(() => []);
  const server = all.find((one) => one.pid === pid);
  if (server === undefined) return undefined;
  const family = new Set([pid]);
  const database = { memoryMb: 0, cpuSeconds: 0 };
  // A child has a higher number than its parent, as a rule; two rounds see those that have not.
  for (let round = 0; round < 2; round += 1) for (const one of all) if (family.has(one.parent)) family.add(one.pid);
  for (const one of all) {
    if (one.pid === pid || !family.has(one.pid)) continue;
    database.memoryMb += one.use.memoryMb;
    database.cpuSeconds += one.use.cpuSeconds;
  }
  return { server: server.use, database: { ...database, memoryMb: Math.round(database.memoryMb) } };
}

async function processes(): Promise<Process[]> {
  const names = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(names.map((name) => read(Number(name)).catch(() => undefined))); // gone meanwhile
  return found.filter((one) => one !== undefined);
}

async function read(pid: number): Promise<Process> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  // After the name, which may hold anything: state, parent, …; 12 and 13 are user and system time.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const rollup = await readFile(`/proc/${pid}/status`, "utf8");
  // What it shares (PostgreSQL's buffers) is not counted in each of its processes.
  const kb = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(rollup)?.[1] ?? 0);
  return {
    pid,
    parent: Number(fields[1]),
    use: {
      memoryMb: Math.round((kb("RssAnon") + kb("RssFile")) / 1024),
      cpuSeconds: (Number(fields[11]) + Number(fields[12])) / ticksPerSecond,
    },
  };
}
