/**
 * A program in an instance, with this terminal: what is typed goes up, what it
 * writes comes down, until it ends.
 *
 * X1: the terminal is as it was when it is over, however it ended.
 * X2: what is typed is read as fast as the program takes it.
 * X3: Ctrl-C is the program's, so a way that is lost without a word ends this by
 *     itself.
 */
import type { ClientHttp2Session } from "node:http2";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type ExecRequest,
  ExecRequestSchema,
  type ExecStart,
  type ExecStartSchema,
  InstanceService,
} from "@bowline/contract/instances";
import { dialHttp2 } from "@bowline/dial";
import { createHandoff, merged } from "@bowline/kernel";
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import type { Cli } from "./cli.ts";
import type { Api } from "./client.ts";
import { apiError } from "./errors.ts";
import { exitCodes, Failure } from "./failure.ts";

/** Below the idle timers of common NATs: a program may be silent for long. */
const pingEveryMs = 20_000;
/** What the contract takes in one message. */
const mostStdinBytes = 32 * 1024;

export type Wanted = Omit<MessageInitShape<typeof ExecStartSchema>, "$typeName" | "size">;

/** Runs it. Returns its exit code. `withStdin`: what comes from standard input is the program's. */
export async function execIn(cli: Cli, api: Api, wanted: Wanted, withStdin: boolean): Promise<number> {
  const { url, token } = api.target;
  const target = { url, proxies: cli.settings.proxies, ca: await api.authority() };
  const session = await dialHttp2(target, { signal: cli.interrupted });
  session.on("error", () => undefined); // its one call fails with it
  const alive = keepAlive(session); // X3
  const over = new AbortController();
  const sizes = createHandoff<ExecRequest>();
  const resized = (): void => void sizes.put(resizeOf(cli)).catch(() => undefined);
  const raw = wanted.tty === true && withStdin && cli.stdin.isTTY;
  try {
    if (raw) cli.stdin.setRawMode(true);
    if (wanted.tty === true) cli.stdout.on("resize", resized);
    const responses = clientOver(session, url).exec(requests(cli, wanted, withStdin, sizes), {
      headers: { authorization: `Bearer ${token}` },
      signal: AbortSignal.any([cli.interrupted, over.signal]),
      timeoutMs: 0,
    });
    let started = false;
    try {
      for await (const { message } of responses) {
        started = true;
        if (message.case === "stdout") await write(cli.stdout, message.value);
        if (message.case === "stderr") await write(cli.stderr, message.value);
        if (message.case === "exit") return message.value.code;
      }
    } catch (error) {
      const said = apiError(error);
      // What the server, or nobody, has started says more by itself.
      if (!started || cli.interrupted.aborted || said === undefined || said.reason !== "") throw error;
    }
    throw lost();
  } finally {
    over.abort();
    sizes.leave();
    cli.stdout.off("resize", resized);
    if (raw) cli.stdin.setRawMode(false); // X1
    cli.stdin.pause();
    clearInterval(alive);
    session.destroy();
  }
}

function lost(): Failure {
  return new Failure(exitCodes.failed, "The connection to the server ended before the program did.", {
    reason: "TUNNEL_LOST",
    lines: ["The program is ended with it; how far it came is not known."],
  });
}

/** Each ping is answered before the next one is due, or the session ends. */
function keepAlive(session: ClientHttp2Session): NodeJS.Timeout {
  let answered = true;
  return setInterval(() => {
    if (!answered) session.destroy(new Error("the server does not answer any more"));
    else session.ping(() => (answered = true));
    answered = false;
  }, pingEveryMs);
}

/** Messages go both ways at once: HTTP/2, over the one session. */
function clientOver(session: ClientHttp2Session, url: string): Client<typeof InstanceService> {
  return createClient(
    InstanceService,
    createConnectTransport({
      baseUrl: url,
      httpVersion: "2",
      sessionManager: {
        authority: new URL(url).origin,
        request: (method, path, headers, options) =>
          Promise.resolve(session.request({ ...headers, ":method": method, ":path": path }, options)),
        notifyResponseByteRead: () => undefined,
      },
    }),
  );
}

async function* requests(
  cli: Cli,
  wanted: Wanted,
  withStdin: boolean,
  sizes: AsyncIterable<ExecRequest>,
): AsyncGenerator<ExecRequest> {
  const start = { ...wanted, ...(wanted.tty === true ? { size: sizeOf(cli) } : {}) };
  yield create(ExecRequestSchema, { message: { case: "start", value: start as ExecStart } });
  const typed = withStdin ? [stdinOf(cli)] : [];
  // With a terminal the end of stdin is a character; without one it is the end of the messages.
  if (wanted.tty === true) yield* merged([...typed, sizes]);
  else for (const source of typed) yield* source;
}

async function* stdinOf(cli: Cli): AsyncGenerator<ExecRequest> {
  for await (const chunk of cli.stdin) {
    const bytes = new Uint8Array(Buffer.from(chunk as Buffer | string));
    for (let at = 0; at < bytes.length; at += mostStdinBytes)
      yield create(ExecRequestSchema, { message: { case: "stdin", value: bytes.subarray(at, at + mostStdinBytes) } });
  }
}

function sizeOf({ stdout }: Cli): { columns: number; rows: number } {
  return { columns: stdout.columns || 80, rows: stdout.rows || 24 };
}

function resizeOf(cli: Cli): ExecRequest {
  return create(ExecRequestSchema, { message: { case: "resize", value: sizeOf(cli) } });
}

/** Resolves when more can be written (X2, the other way round). */
function write(stream: NodeJS.WriteStream, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    if (stream.write(bytes)) resolve();
    else stream.once("drain", resolve);
  });
}
