/** The machine of a run: figures of another one differ, and ratios less so. */
import { execFile } from "node:child_process";
import { availableParallelism, cpus, loadavg, release, totalmem, type } from "node:os";
import { promisify } from "node:util";

export interface Machine {
  processor: string;
  cores: number;
  memoryGib: number;
  kernel: string;
  node: string;
  postgres: string;
  redis: string;
  commit: string;
  /** Processes that ran or wanted to in the minute before: above 0.5 others used the machine too. */
  loadBefore: number;
}

export async function describeMachine(versions: { postgres: string; redis: string }): Promise<Machine> {
  return {
    processor: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memoryGib: Math.round(totalmem() / 2 ** 30),
    kernel: `${type()} ${release()}`,
    node: process.version,
    ...versions,
    commit: await commit(),
    loadBefore: Math.round((loadavg()[0] ?? 0) * 10) / 10,
  };
}

async function commit(): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)("git", ["describe", "--always", "--dirty"]);
    return stdout.trim();
  } catch {
    return "unknown"; // a copy without its history
  }
}
