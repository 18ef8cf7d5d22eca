/**
 * Tunnels: what a user reads of an instance or runs in it, and what is on the
 * host beside, carried over a connection of its own (proto/bowline/agent/v1/tunnels.proto).
 *
 *   serve.ts  is asked for one    runtime.ts  logs, exec, others' containers
 *   polled-tunnel.ts  where no stream passes
 *
 * T1: no tunnel shares a connection with the session or another tunnel: what
 *     nobody reads holds up nothing else.
 * T2: nothing is read ahead: the runtime is asked for more when the connection
 *     has taken what was read.
 * T3: what was started for a tunnel ends with it, whoever ends it.
 * T4: what goes through is the user's and never in a log.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import {
  type OpenTunnel,
  type TunnelExec,
  type TunnelInstance,
  type TunnelLogs,
  type TunnelRequest,
  TunnelOutput_Source,
  TunnelRequestSchema,
  type TunnelResponse,
  TunnelService,
} from "@bowline/contract/agent";
import { type Clock, createHandoff, merged, withIdle } from "@bowline/kernel";
import {
  type AgentTransport,
  inChunks,
  maxTunnelsOfAgent,
  refusalOf,
  tunnelKeepAliveMs,
  tunnelOpenWithinMs,
} from "@bowline/session";
import { containerFrames } from "./container-frames.ts";
import type { Log } from "./log.ts";
import { pollTunnel } from "./polled-tunnel.ts";
import type { ExecInput, Runtime } from "./runtime.ts";

export interface Tunnels {
  /**
   * Dials a tunnel and serves it, carried like the session that asked for it; `token` is asked when it dials, or for each
   * request. Waits for nothing; the same one is opened once.
   */
  open(asked: Pick<OpenTunnel, "tunnelId">, session: { kind: AgentTransport["kind"]; token: () => string }): void;
  /** Ends all of them, and resolves when nothing of them is left. */
  close(): Promise<void>;
}

export interface TunnelPorts {
  runtime: Pick<Runtime, "logs" | "exec" | "foreignContainers">;
  /** A connection for one tunnel (T1); `callEnded` is told when the call of a stream is over. */
  dial(kind: AgentTransport["kind"], callEnded: () => void): AgentTransport;
  clock: Clock;
  log: Log;
}

/** Ids that are remembered: a server repeats its wish until the tunnel arrives. */
const maxRemembered = 256;

/** After the last frame the server ends its side at once; one that does not is gone. */
const closeWithinMs = 5_000;

type Frame = Exclude<MessageInitShape<typeof TunnelRequestSchema>, TunnelRequest>["frame"];

const frame = (piece: Frame): TunnelRequest =>
  create(TunnelRequestSchema, { frame: piece } as MessageInitShape<typeof TunnelRequestSchema>);

export function createTunnels(ports: TunnelPorts): Tunnels {
  const { log } = ports;
  const ending = new AbortController();
  const open = new Map<string, Promise<void>>();
  const remembered = new Set<string>();
  return {
    open({ tunnelId }, session) {
      if (ending.signal.aborted || remembered.has(tunnelId)) return;
      if (open.size >= maxTunnelsOfAgent) return log.warn({ tunnel: tunnelId }, "too many tunnels are open");
      remembered.add(tunnelId);
      const [oldest] = remembered;
      if (remembered.size > maxRemembered && oldest !== undefined) remembered.delete(oldest);
      const running = serveTunnel(ports, tunnelId, session, ending.signal)
        .catch((error: unknown) => {
          if (ending.signal.aborted) return;
          const { reason, message } = refusalOf(error);
          log.warn({ tunnel: tunnelId, reason, detail: message }, "a tunnel ended with an error");
        })
        .finally(() => open.delete(tunnelId));
      open.set(tunnelId, running);
    },
    async close() {
      ending.abort();
      await Promise.all(open.values());
    },
  };
}

async function serveTunnel(
  ports: TunnelPorts,
  tunnelId: string,
  { kind, token }: { kind: AgentTransport["kind"]; token: () => string },
  stop: AbortSignal,
): Promise<void> {
  const { clock } = ports;
  const over = new AbortController();
  const signal = AbortSignal.any([stop, over.signal]);
  const transport = ports.dial(kind, () => over.abort());
  let limit = setTimeout(() => over.abort(), tunnelOpenWithinMs);
  const heard = createHandoff<TunnelResponse>();
  signal.addEventListener("abort", () => heard.leave(), { once: true });
  const keepAlive = (): TunnelRequest => frame({ case: "keepAlive", value: { sentAt: timestampFromMs(clock.now()) } });
  async function* say(): AsyncGenerator<TunnelRequest> {
    yield frame({ case: "opened", value: { tunnelId } });
    const iterator = heard[Symbol.asyncIterator]();
    const first = await iterator.next();
    clearTimeout(limit);
    if (first.done === true) return;
    yield* answer(ports, first.value, iterator, signal);
    limit = setTimeout(() => over.abort(), closeWithinMs);
  }
  const saying = say();
  try {
    const headers = { authorization: `Bearer ${token()}` };
    const up = withIdle(saying, tunnelKeepAliveMs, keepAlive, clock);
    const answers =
      transport.kind === "poll"
        ? pollTunnel({ tunnelId, unary: transport.unary, token, clock }, up, signal)
        : createClient(TunnelService, transport.stream).tunnel(up, { headers, signal });
    for await (const message of answers) {
      if (message.frame.case !== "keepAlive") await heard.put(message);
    }
  } finally {
    over.abort(); // T3
    await saying.return(undefined);
    clearTimeout(limit);
    transport.close();
  }
}

/** Everything that is said after the first frame that is heard. */
async function* answer(
  ports: TunnelPorts,
  { frame: wanted }: TunnelResponse,
  rest: AsyncIterator<TunnelResponse>,
  signal: AbortSignal,
): AsyncGenerator<TunnelRequest> {
  try {
    if (wanted.case === "logs") yield* logsOf(ports.runtime, wanted.value, signal);
    else if (wanted.case === "exec") yield* execOf(ports.runtime, wanted.value, inputOf(rest), signal);
    else if (wanted.case === "foreignContainers") yield* foreignOf(ports.runtime, signal);
    else yield error("UNSUPPORTED", `this agent has no tunnels for ${wanted.case ?? "what was asked"}`);
  } catch (failure) {
    ports.log.error({ error: String(failure) }, "a tunnel's work failed");
    yield error("INTERNAL", failure instanceof Error ? failure.message : String(failure));
  }
}

function error(reason: string, message: string): TunnelRequest {
  return frame({ case: "error", value: { reason, message } });
}

async function* logsOf(
  runtime: Pick<Runtime, "logs">,
  { instances, lines, follow, timestamps }: TunnelLogs,
  signal: AbortSignal,
): AsyncGenerator<TunnelRequest> {
  const sources = instances.map((instance, number) =>
    outputs(number, logsOfOne(runtime, instance, { lines, follow, timestamps }, signal)),
  );
  yield* merged(sources);
}

async function* foreignOf(
  { foreignContainers }: Pick<Runtime, "foreignContainers">,
  signal: AbortSignal,
): AsyncGenerator<TunnelRequest> {
  if (foreignContainers === undefined) return yield error("UNSUPPORTED", "its runtime has no containers");
  const told = await foreignContainers(signal);
  if (told.kind === "refused") return yield error(told.reason, told.message);
  for (const value of containerFrames(told.containers)) yield frame({ case: "containers", value });
}

function logsOfOne(
  runtime: Pick<Runtime, "logs">,
  { deploymentId, workload, index }: TunnelInstance,
  wanted: { lines: number; follow: boolean; timestamps: boolean },
  signal: AbortSignal,
): AsyncIterable<Uint8Array> {
  return runtime.logs(deploymentId, workload, index, wanted, signal);
}

async function* outputs(instance: number, chunks: AsyncIterable<Uint8Array>): AsyncGenerator<TunnelRequest> {
  for await (const chunk of chunks) {
    for (const data of inChunks(chunk)) yield frame({ case: "output", value: { instance, data } });
  }
}

async function* execOf(
  runtime: Pick<Runtime, "exec">,
  { instance, command, tty, size }: TunnelExec,
  input: AsyncIterable<ExecInput>,
  signal: AbortSignal,
): AsyncGenerator<TunnelRequest> {
  const { deploymentId = "", workload = "", index = 0 } = instance ?? {};
  const request = { command, tty, ...(size === undefined ? {} : { size }) };
  for await (const told of runtime.exec(deploymentId, workload, index, request, input, signal)) {
    switch (told.kind) {
      case "stdout":
      case "stderr": {
        const source = told.kind === "stdout" ? TunnelOutput_Source.STDOUT : TunnelOutput_Source.STDERR;
        for (const data of inChunks(told.bytes)) yield frame({ case: "output", value: { source, data } });
        break;
      }
      case "exit":
        yield frame({ case: "exit", value: { code: told.code } });
        break;
      case "refused":
        yield error(told.reason, told.message);
        break;
      default:
        told satisfies never;
    }
  }
}

/** After the end of stdin, or of whoever reads it, what still comes is dropped: the tunnel's own end comes behind it. */
async function* inputOf(rest: AsyncIterator<TunnelResponse>): AsyncGenerator<ExecInput> {
  try {
    for (;;) {
      const next = await rest.next();
      if (next.done === true) return;
      const { frame: piece } = next.value;
      if (piece.case === "stdinEnd") return;
      if (piece.case === "stdin") yield { kind: "stdin", bytes: piece.value };
      else if (piece.case === "resize") {
        const { columns, rows } = piece.value;
        yield { kind: "resize", size: { columns, rows } };
      }
    }
  } finally {
    void drop(rest);
  }
}

async function drop(rest: AsyncIterator<TunnelResponse>): Promise<void> {
  while ((await rest.next()).done !== true);
}
