/**
 * Programs run beside an instance: in its folder, with its environment.
 *
 *   terminal.ts  the terminal of one    processes.ts  ending what it started
 *
 * X1: everything that an exec started carries its marker, and ends when it ends:
 *     also what left its group, and what a killed agent left behind (`endExecs`).
 * X2: nothing is read ahead of who reads: the pipe is the only buffer.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { constants } from "node:os";
import type { Readable, Writable } from "node:stream";
import type { ExecInput, ExecOutput, ExecRequest } from "@bowline/agent-core";
import { errorCode } from "@bowline/agent-core/runtimes";
import { merged } from "@bowline/kernel";
import type { Instance } from "./instances.ts";
import { allExecMembers, execMembers, killAll, markers } from "./processes.ts";
import { inTerminal, resizeTerminal, terminalProblem } from "./terminal.ts";

/** What an ended program's pipe may stay silent before it is closed: something that escaped holds it. */
const silentAfterEndMs = 2_000;

/** As a shell tells them. */
const notFoundCode = 127;
const notStartedCode = 126;

/** `environment`: all variables of the instance but its run's marker. */
export async function* execIn(
  instance: Instance | undefined,
  environment: (instance: Instance) => Promise<Record<string, string>>,
  request: ExecRequest,
  input: AsyncIterable<ExecInput>,
  signal: AbortSignal,
): AsyncIterable<ExecOutput> {
  if (signal.aborted) return;
  const refused = (
    reason: "INSTANCE_UNKNOWN" | "INSTANCE_NOT_RUNNING" | "UNSUPPORTED",
    message: string,
  ): ExecOutput => {
    return { kind: "refused", reason, message };
  };
  if (instance === undefined) return yield refused("INSTANCE_UNKNOWN", "there is no such instance here");
  const phase = instance.phase();
  if (phase.kind !== "running") return yield refused("INSTANCE_NOT_RUNNING", `the instance is ${phase.kind}`);
  const problem = request.tty ? terminalProblem() : undefined;
  if (problem !== undefined) return yield refused("UNSUPPORTED", problem);

  const exec = randomBytes(12).toString("hex");
  const command = request.tty ? inTerminal(request) : request.command;
  const child = spawn(command[0] ?? "", command.slice(1), {
    cwd: instance.workingDir,
    env: {
      ...(request.tty ? { TERM: "xterm" } : {}),
      ...(await environment(instance)),
      [markers.run]: phase.live.record.run,
      [markers.probe]: "1",
      [markers.exec]: exec,
    },
    detached: true,
    stdio: "pipe",
  });
  let ended = false;
  const endAll = async (): Promise<void> => {
    await killAll(() => execMembers(exec, ended ? undefined : child.pid)); // X1
  };
  const code = new Promise<number>((resolve) => {
    child.once("error", (error) => {
      ended = true;
      resolve(errorCode(error) === "ENOENT" ? notFoundCode : notStartedCode);
    });
    child.once("exit", (status, by) => {
      ended = true;
      closeWhenSilent([child.stdout, child.stderr]);
      void endAll();
      resolve(status ?? 128 + (by === null ? 0 : constants.signals[by]));
    });
  });
  const leave = (): void => {
    for (const stream of [child.stdin, child.stdout, child.stderr]) stream.destroy();
    void endAll();
  };
  signal.addEventListener("abort", leave, { once: true });
  try {
    void feed(input, child.stdin, (size) => resizeTerminal(child.pid, size));
    yield* merged([chunks("stdout", child.stdout), chunks("stderr", child.stderr)]);
    const status = await code;
    if (!signal.aborted) yield { kind: "exit", code: status };
  } finally {
    signal.removeEventListener("abort", leave);
    leave();
    await endAll();
  }
}

/** Ends what an agent that was killed left of its execs (X1). */
export async function endExecs(runtimeId: string): Promise<void> {
  await killAll(() => allExecMembers(runtimeId));
}

async function* chunks(kind: "stdout" | "stderr", stream: Readable): AsyncIterable<ExecOutput> {
  try {
    for await (const bytes of stream as AsyncIterable<Buffer>) yield { kind, bytes };
  } catch {
    // Closed by us: whoever did it knows why.
  }
}

function closeWhenSilent(streams: readonly Readable[]): void {
  const timer = setInterval(() => {
    if (streams.every(({ destroyed, readableEnded }) => destroyed || readableEnded)) return clearInterval(timer);
    for (const stream of streams) if (stream.readableLength === 0) stream.destroy();
  }, silentAfterEndMs);
  timer.unref();
}

/** Never rejects: an end of the program is told by its exit. */
async function feed(
  input: AsyncIterable<ExecInput>,
  stdin: Writable,
  resize: (size: { columns: number; rows: number }) => Promise<void>,
): Promise<void> {
  stdin.on("error", () => {}); // the program reads no more
  try {
    for await (const item of input) {
      if (item.kind === "resize") await resize(item.size);
      else await new Promise<void>((resolve) => stdin.write(item.bytes, () => resolve()));
      if (stdin.destroyed) return;
    }
    stdin.end();
  } catch {
    stdin.destroy(); // whoever wrote is gone
  }
}
