/** Health checks by a command: a process beside the instance, with its environment. */
import { spawn } from "node:child_process";
import type { Failure } from "@bowline/agent-core/runtimes";
import { markers } from "./processes.ts";

/** Of a failing command's output, shown as the reason. */
const outputBytes = 512;

/** Where a check is done. */
export interface ExecTarget {
  environment: Readonly<Record<string, string>>;
  workingDir: string;
}

export function tryExec(command: readonly string[], target: ExecTarget, limit: AbortSignal): Promise<Failure> {
  const [program, ...args] = command;
  return new Promise((resolve) => {
    const child = spawn(program ?? "", args, {
      cwd: target.workingDir,
      env: { ...target.environment, [markers.probe]: "1" },
      detached: true, // a group of its own, so that all of it ends with the try (H2)
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    const keep = (chunk: Buffer): void => {
      if (output.length < outputBytes) output += chunk.toString("utf8").slice(0, outputBytes - output.length);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    const end = (failure: Failure): void => {
      limit.removeEventListener("abort", tooLate);
      if (child.pid !== undefined) killGroup(child.pid);
      child.stdout.destroy(); // a grandchild may hold them open
      child.stderr.destroy();
      resolve(failure);
    };
    const tooLate = (): void => end(`${program} did not end in time`);
    limit.addEventListener("abort", tooLate, { once: true });
    child.once("error", (error) => end(error.message));
    child.once("exit", (code, signal) =>
      end(
        code === 0
          ? undefined
          : `${program} ended with ${signal ?? `exit code ${code}`}${output === "" ? "" : `: ${output.trim()}`}`,
      ),
    );
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // Nothing of the try is left: that was the aim.
  }
}
