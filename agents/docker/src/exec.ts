/**
 * Programs run in a container by the engine, beside what it runs itself.
 *
 *   engine.ts  the connection that the engine gives away    logs.ts  its frames
 *
 * X1: the engine goes on with an exec whose reader is gone and has no call to
 *     end one. So everything carries a marker in its environment, and is killed
 *     by it: from this host where its processes are this host's, else by a shell
 *     in the container. A container with neither keeps what was started until it
 *     stops; the log says so.
 * X2: nothing is read ahead of who reads: the connection is the only buffer.
 */
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import type { Duplex } from "node:stream";
import { systemClock } from "@bowline/kernel";
import type { ExecInput, ExecOutput, ExecRequest, TerminalSize } from "@bowline/agent-core";
import { EngineError, type Engine } from "./engine.ts";
import { frames } from "./logs.ts";

const marker = "BOWLINE_EXEC";

/** The engine tells an exit a moment after the streams have ended, and a kill takes as long. */
const lookMs = 50;
const looks = 100;

/** Right after the start there is no terminal yet whose size could be set. */
const resizeTries = 20;

const notStartedCode = 126;

/** Kills what carries the marker `$0`; `sh` and `grep` are all that it needs. */
const killScript = `for file in /proc/[0-9]*/environ; do
  if grep -q "${marker}=$0" "$file" 2>/dev/null; then pid=\${file#/proc/}; kill -9 "\${pid%/environ}"; fi
done`;

interface Told {
  Running: boolean;
  ExitCode: number | null;
  Pid: number;
}

/** `container`: undefined where there is no such instance. */
export async function* execIn(
  engine: Engine,
  container: string | undefined,
  request: ExecRequest,
  input: AsyncIterable<ExecInput>,
  signal: AbortSignal,
  note: (message: string) => void,
): AsyncIterable<ExecOutput> {
  if (signal.aborted) return;
  if (container === undefined)
    return yield { kind: "refused", reason: "INSTANCE_UNKNOWN", message: "there is no such container here" };
  const mark = randomBytes(12).toString("hex");
  let exec: string;
  try {
    exec = await create(engine, container, request, mark);
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    if (error.status === 404) return yield { kind: "refused", reason: "INSTANCE_UNKNOWN", message: error.message };
    if (error.status === 409) return yield { kind: "refused", reason: "INSTANCE_NOT_RUNNING", message: error.message };
    throw error;
  }
  const look = (): Promise<Told> => engine.call<Told>("GET", `/exec/${exec}/json`);
  const resize = ({ columns, rows }: TerminalSize): Promise<unknown> =>
    engine.call("POST", `/exec/${exec}/resize`, { query: { w: columns, h: rows } });
  let connection: Duplex | undefined;
  let left = true;
  try {
    connection = await start(engine, exec, request, signal);
    if (request.tty && request.size !== undefined) await firstSize(() => resize(request.size ?? usualSize));
    void feed(input, connection, request.tty ? resize : async () => {});
    yield* outputOf(connection, request.tty, signal);
    if (signal.aborted) return;
    const { ExitCode, Running } = await ended(look);
    left = Running;
    yield { kind: "exit", code: ExitCode ?? notStartedCode };
  } finally {
    connection?.destroy();
    if (left) await kill(engine, container, mark, look).catch((error: unknown) => note(String(error)));
  }
}

const usualSize: TerminalSize = { columns: 80, rows: 24 };

async function create(engine: Engine, container: string, { command, tty }: ExecRequest, mark: string): Promise<string> {
  const body = {
    ...{ AttachStdin: true, AttachStdout: true, AttachStderr: true, Tty: tty, Cmd: command },
    Env: [`${marker}=${mark}`, ...(tty ? ["TERM=xterm"] : [])],
  };
  return (await engine.call<{ Id: string }>("POST", `/containers/${container}/exec`, { body })).Id;
}

function start(engine: Engine, exec: string, { tty }: ExecRequest, signal: AbortSignal): Promise<Duplex> {
  return engine.duplex(`/exec/${exec}/start`, { Detach: false, Tty: tty }, signal);
}

async function firstSize(resize: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; attempt <= resizeTries; attempt += 1) {
    try {
      return void (await resize());
    } catch {
      await systemClock.sleep(lookMs); // it has not started yet, or has ended already: then the size is nobody's
    }
  }
}

async function* outputOf(connection: Duplex, tty: boolean, signal: AbortSignal): AsyncIterable<ExecOutput> {
  if (!tty) {
    for await (const { source, bytes } of frames(connection, signal))
      yield { kind: source === 2 ? "stderr" : "stdout", bytes };
    return;
  }
  try {
    for await (const bytes of connection as AsyncIterable<Buffer>) yield { kind: "stdout", bytes };
  } catch (error) {
    if (!signal.aborted) throw new EngineError(0, `the stream was cut: ${String(error)}`);
  }
}

async function ended(look: () => Promise<Told>): Promise<Told> {
  let told = await look();
  for (let more = 1; told.Running && more < looks; more += 1) {
    await systemClock.sleep(lookMs);
    told = await look();
  }
  return told;
}

/** X1. Throws where something goes on. */
async function kill(engine: Engine, container: string, mark: string, look: () => Promise<Told>): Promise<void> {
  const told = await look();
  if (!told.Running) return;
  const here = processesWith(mark);
  if (here.length > 0) for (const pid of here) send(pid);
  else {
    const body = { Cmd: ["/bin/sh", "-c", killScript, mark] };
    const { Id } = await engine.call<{ Id: string }>("POST", `/containers/${container}/exec`, { body });
    await engine.call("POST", `/exec/${Id}/start`, { body: { Detach: true, Tty: false } });
  }
  if ((await ended(look)).Running) throw new Error("what an exec started goes on until its container stops");
}

/** Processes that this host shows and that carry a mark: the container is this host's. */
function processesWith(mark: string): number[] {
  const wanted = `${marker}=${mark}\0`;
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return `\0${readFileSync(`/proc/${pid}/environ`, "latin1")}`.includes(`\0${wanted}`);
      } catch {
        return false; // it has ended, or is not ours to read
      }
    })
    .map(Number);
}

function send(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

/** Never rejects: an end of the program is told by its exit. */
async function feed(
  input: AsyncIterable<ExecInput>,
  connection: Duplex,
  resize: (size: TerminalSize) => Promise<unknown>,
): Promise<void> {
  try {
    for await (const item of input) {
      if (item.kind === "resize") await resize(item.size).catch(() => {}); // it has just ended
      else await new Promise<void>((resolve) => connection.write(item.bytes, () => resolve()));
      if (connection.destroyed) return;
    }
    connection.end();
  } catch {
    connection.destroy(); // whoever wrote is gone
  }
}
