/**
 * The server's end of an agent's stream: over a call of our own wire, or inside
 * a handler of Connect:
 *
 *     async *connect(requests, context) {
 *       const session = acceptSession(requests, { clock, hangUp: context.values.get(hangUpKey) });
 *       void serve(session, context);     // reads session.messages, calls session.send, ends with session.close
 *       yield* session.outgoing;
 *     }
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createContextKey, type ContextKey } from "@connectrpc/connect";
import { ServerMessageSchema, type AgentMessage, type ServerMessage } from "@bowline/contract/agent";
import type { Clock } from "@bowline/kernel";
import { encodeAcknowledgement } from "./acknowledgement.ts";
import { createChannel, createLine, type Channel, type Line } from "./channel.ts";
import { orderOfAgentMessages } from "./order.ts";
import type { SendOutcome } from "./outbox.ts";
import type { Duplex } from "./wire/index.ts";

/** A session whose messages are pushed to whoever serves it. */
export interface PushedSession extends Line<ServerMessage> {
  /** Begins to read, once. While `take` takes its time with one, the next waits. What it throws is a defect. */
  receive(take: (message: AgentMessage) => void | Promise<void>): void;
  /** Sends the acknowledgement of a heartbeat. */
  acknowledge(number: number): SendOutcome;
  /** Resolves when the transport has what was said, or takes no more of it. */
  readonly sent: Promise<void>;
}

export interface AcceptedSession extends Channel<ServerMessage, AgentMessage>, PushedSession {
  /** What the handler yields. Ends with the channel; throws the problem that the channel was closed with. */
  readonly outgoing: AsyncIterable<ServerMessage>;
}

export type AcceptOptions = {
  clock: Clock;
  hangUp: () => void;
  silenceMs?: number;
  maxQueued?: number;
  stallMs?: number;
};

/**
 * Cuts the HTTP/2 stream below a handler. A handler cannot do that by itself:
 * while the peer reads nothing, nobody takes its error either. The server puts
 * it there with `contextValues` of the adapter (see `hangUpOf`).
 */
export const hangUpKey: ContextKey<() => void> = createContextKey<() => void>(() => {}, {
  description: "cuts the stream below the handler",
});

/** What `contextValues` stores under `hangUpKey` for a request of node:http2 or node:http. */
export function hangUpOf(request: object): () => void {
  const { stream, socket } = request as {
    stream?: { close(code: number): void; destroy(): void };
    socket?: { destroy(): void } | null;
  };
  const cancelled = 0x8; // RFC 9113, 7: CANCEL
  return () => {
    if (stream !== undefined) {
      stream.close(cancelled);
      stream.destroy(); // close alone waits for data that the peer does not take
    } else {
      socket?.destroy();
    }
  };
}

/** Heartbeats' acknowledgements are the only words down of which the newest says all. */
const coalesce = ({ message }: ServerMessage): string | undefined =>
  message.case === "heartbeatAck" ? "heartbeat_ack" : undefined;

const acknowledgement = (number: number, atMs: number): ServerMessage =>
  create(ServerMessageSchema, {
    message: { case: "heartbeatAck", value: { number, serverTime: timestampFromMs(atMs) } },
  });

export function acceptSession(requests: AsyncIterable<AgentMessage>, options: AcceptOptions): AcceptedSession {
  const { channel, outbox } = createChannel<ServerMessage, AgentMessage>(requests, {
    ...options,
    sizeOf: (message) => toBinary(ServerMessageSchema, message).byteLength,
    coalesce,
    order: orderOfAgentMessages(),
  });
  const receive: PushedSession["receive"] = (take) =>
    void (async () => {
      for await (const message of channel.messages) await take(message);
    })();
  const acknowledge = (number: number): SendOutcome => channel.send(acknowledgement(number, options.clock.now()));
  return Object.assign(channel, { outgoing: outbox, receive, acknowledge, sent: outbox.over });
}

/** Written in one piece: below what a stream buffers before it says "wait", so that one piece is not many of them. */
const togetherBytes = 32 * 1024;

/** A call of our own wire as a session: a message is encoded once, and what is said in one turn is written at once. */
export function acceptDuplex(duplex: Duplex<AgentMessage, ServerMessage>, options: AcceptOptions): PushedSession {
  const { line, outbox, heard, end } = createLine<ServerMessage, AgentMessage, Uint8Array>({
    ...options,
    encode: (message) => duplex.encode(message),
    sizeOf: (bytes) => bytes.byteLength,
    coalesce,
    order: orderOfAgentMessages(),
  });
  let blocked = false;
  let planned = false;
  const pour = (): void => {
    planned = false;
    while (!blocked && outbox.queued > 0) {
      const together: Uint8Array[] = [];
      for (let bytes = 0; bytes < togetherBytes;) {
        const next = outbox.take();
        if (next === undefined) break;
        together.push(next);
        bytes += next.byteLength;
      }
      blocked = !duplex.write(together);
    }
    if (blocked) outbox.stuck();
  };
  outbox.push(() => {
    if (blocked) return outbox.stuck();
    if (planned) return;
    planned = true;
    process.nextTick(pour);
  });
  duplex.drained(() => {
    blocked = false;
    pour();
  });
  const receive: PushedSession["receive"] = (take) =>
    duplex.receive({
      message: (message) => (heard(message) ? take(message) : undefined),
      end: () => end({ kind: "peer-closed" }),
      failed: (error) => end({ kind: "failed", error }),
    });
  const acknowledge = (number: number): SendOutcome => {
    const atMs = options.clock.now();
    // Where something waits it has to wait behind it, or takes the place of an older one.
    if (blocked || outbox.queued > 0 || line.signal.aborted || !duplex.binary)
      return line.send(acknowledgement(number, atMs));
    blocked = !duplex.write([encodeAcknowledgement(number, atMs)]);
    return "queued";
  };
  return Object.assign(line, { receive, acknowledge, sent: outbox.over });
}
