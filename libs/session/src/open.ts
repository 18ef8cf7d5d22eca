/** The agent's end of its stream, over a transport. */
import { toBinary } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import { AgentMessageSchema, AgentService, type AgentMessage, type ServerMessage } from "@bowline/contract/agent";
import { systemClock, type Clock } from "@bowline/kernel";
import { createChannel, type Channel } from "./channel.ts";
import { orderOfServerMessages } from "./order.ts";

export interface AgentChannel extends Channel<AgentMessage, ServerMessage> {
  /** Resolves when nothing of the stream is left, at most `closeGraceMs` after its end. */
  readonly released: Promise<void>;
}

/** How long a closed stream may take to carry its last messages (results, Goodbye) before it is cut. */
export const closeGraceMs = 2_000;

/**
 * Opens the stream with a signed assertion, when `messages` is first read. That
 * the server refuses shows in `ended`; the greeting is the caller's to send.
 * When `signal` aborts, the stream is cut; `close` lets what is queued go out.
 */
export function openSession(
  transport: Transport,
  options: { assertion: string; clock?: Clock; silenceMs?: number; maxQueued?: number; stallMs?: number },
  signal: AbortSignal,
): AgentChannel {
  const { assertion, clock = systemClock, ...bounds } = options;
  const cut = new AbortController();
  let responses: AsyncIterator<ServerMessage> | undefined;

  const incoming: AsyncIterable<ServerMessage> = {
    [Symbol.asyncIterator]: () =>
      (responses ??= createClient(AgentService, transport)
        .connect(outbox, { signal: cut.signal, headers: { authorization: `Bearer ${assertion}` } })
        [Symbol.asyncIterator]()),
  };
  const { channel, outbox } = createChannel<AgentMessage, ServerMessage>(incoming, {
    ...bounds,
    sizeOf: (message) => toBinary(AgentMessageSchema, message).byteLength,
    coalesce: ({ message }) => {
      if (message.case === "heartbeat") return "heartbeat";
      return message.case === "commandProgress" ? `progress ${message.value.commandId}` : undefined;
    },
    order: orderOfServerMessages(),
    clock,
    hangUp: () => cut.abort(),
  });
  const abort = (): void => {
    channel.close();
    cut.abort();
  };
  signal.addEventListener("abort", abort, { once: true });
  if (signal.aborted) abort();
  return Object.defineProperties(channel, { released: { value: release(), enumerable: true } }) as AgentChannel;

  /** Leaving the loop over the responses does not cancel the call; this ends it, in order where the server lets it. */
  async function release(): Promise<void> {
    await channel.ended;
    if (responses !== undefined && !cut.signal.aborted) {
      const drained = new AbortController();
      await Promise.race([drain(responses), clock.sleep(closeGraceMs, AbortSignal.any([drained.signal, cut.signal]))]);
      drained.abort();
    }
    cut.abort();
    outbox.abandon(); // A transport that never began to read, or was cut, leaves its watch for a stall behind otherwise.
    signal.removeEventListener("abort", abort);
  }
}

async function drain(responses: AsyncIterator<ServerMessage>): Promise<void> {
  try {
    while ((await responses.next()).done !== true);
  } catch {
    // The channel has ended with its reason already; a later error says nothing new.
  }
}
