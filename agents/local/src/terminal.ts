/**
 * A terminal for an exec: `script` (util-linux) holds one between our pipes and
 * the program, `stty` (coreutils) sets its size. Node has none of its own, and a
 * native module would have to be built on every host.
 */
import { execFile } from "node:child_process";
import { accessSync, constants, readlinkSync } from "node:fs";
import { promisify } from "node:util";
import { systemClock } from "@bowline/kernel";
import type { ExecRequest, TerminalSize } from "@bowline/agent-core";
import { allProcesses } from "@bowline/agent-core/runtimes";

const script = "/usr/bin/script";

const usualSize: TerminalSize = { columns: 80, rows: 24 };

/** Right after the start `script` has no terminal yet. */
const lookMs = 20;
const looks = 50;

/** Setting a size is one system call; this is for a machine that is busy. */
const setWithinMs = 5_000;

/** Why there can be no terminal here. */
export function terminalProblem(): string | undefined {
  try {
    accessSync(script, constants.X_OK);
    return undefined;
  } catch {
    return `a terminal needs ${script} (util-linux) on the agent's machine`;
  }
}

/** The command that runs a request's in a terminal. It is quoted for the shell in between, which no other text reaches. */
export function inTerminal({ command, size = usualSize }: ExecRequest): string[] {
  const quoted = command.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
  const start = `stty echo rows ${size.rows} cols ${size.columns}; exec ${quoted}`;
  return ["/usr/bin/env", "SHELL=/bin/sh", script, "-qefc", start, "/dev/null"];
}

/** Gives the terminal of the `script` with this pid another size; its program is told by SIGWINCH. */
export async function resizeTerminal(pid: number | undefined, { columns, rows }: TerminalSize): Promise<void> {
  for (let look = 0; look < looks && pid !== undefined; look += 1) {
    const terminal = terminalOf(pid);
    if (terminal !== undefined) {
      const size = ["rows", String(rows), "cols", String(columns)];
      await promisify(execFile)("stty", ["-F", terminal, ...size], { timeout: setWithinMs }).catch(() => {}); // it ended
      return;
    }
    await systemClock.sleep(lookMs);
  }
}

function terminalOf(pid: number): string | undefined {
  const child = allProcesses().find(({ parent }) => parent === pid);
  if (child === undefined) return undefined;
  try {
    const path = readlinkSync(`/proc/${child.pid}/fd/0`);
    return path.startsWith("/dev/pts/") ? path : undefined;
  } catch {
    return undefined; // it ends just now
  }
}
