/** The suite's programs as this machine sees them, wherever they run. */
import { readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** Found by their command lines, so that one that hides from the runtime is still seen. `but`: a program that only names it. */
export function processesWith(token: string, but: string): { pid: number; command: string }[] {
  const found: { pid: number; command: string }[] = [];
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      if (command.includes(token) && !command.includes(but)) found.push({ pid: Number(pid), command });
    } catch {
      // It ended while we looked.
    }
  }
  return found;
}

export const describeProcess = ({ pid, command }: { pid: number; command: string }): string =>
  `process ${pid} ${command}`;

/** Ends a forwarder that is a process, by what it says of itself in its agent's data folder. */
export async function killForwarderIn(dataDir: string, deploymentId: string): Promise<void> {
  const { pid } = JSON.parse(await readFile(join(dataDir, "forwarders", deploymentId, "status.json"), "utf8"));
  process.kill(pid, "SIGKILL");
}
