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
import { createChannel, OpenLine, type Channel, type Line } from "./channel.ts";
import { orderOfAgentMessages } from "./order.ts";
import type { SendOutcome } from "./outbox.ts";
import type { Duplex, Receiver } from "./wire/index.ts";

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
  return new DuplexSession(duplex, options);
}

class DuplexSession
  extends OpenLine<ServerMessage, AgentMessage, Uint8Array>
  implements PushedSession, Receiver<AgentMessage>
{
  readonly #duplex: Duplex<AgentMessage, ServerMessage>;
  readonly #clock: Clock;
  #take: ((message: AgentMessage) => void | Promise<void>) | undefined;
  #blocked = false;
  #planned = false;

  constructor(duplex: Duplex<AgentMessage, ServerMessage>, options: AcceptOptions) {
    super({ ...options, encode: (message) => duplex.encode(message), sizeOf, coalesce, order: orderOfAgentMessages() });
    this.#duplex = duplex;
    this.#clock = options.clock;
    this.outbox.push(() => {
      if (this.#blocked) return this.outbox.stuck();
      if (this.#planned) return;
      this.#planned = true;
      process.nextTick(pour, this);
    });
    duplex.drained(() => {
      this.#blocked = false;
      this.pour();
    });
  }

  get sent(): Promise<void> {
    return this.outbox.over;
  }

  receive(take: (message: AgentMessage) => void | Promise<void>): void {
    this.#take = take;
    this.#duplex.receive(this);
  }

  acknowledge(number: number): SendOutcome {
    const atMs = this.#clock.now();
    // Where something waits it has to wait behind it, or takes the place of an older one.
    if (this.#blocked || this.outbox.queued > 0 || !this.open || !this.#duplex.binary)
      return this.send(acknowledgement(number, atMs));
    this.#blocked = !this.#duplex.write([encodeAcknowledgement(number, atMs)]);
    return "queued";
  }

  message(message: AgentMessage): void | Promise<void> {
    return this.heard(message) ? this.#take?.(message) : undefined;
  }

  end(): void {
    this.finish({ kind: "peer-closed" });
  }

  failed(error: unknown): void {
    this.finish({ kind: "failed", error });
  }

  pour(): void {
    const { outbox } = this;
    this.#planned = false;
    while (!this.#blocked && outbox.queued > 0) {
      const together: Uint8Array[] = [];
      for (let bytes = 0; bytes < togetherBytes;) {
        const next = outbox.take();
        if (next === undefined) break;
        together.push(next);
        bytes += next.byteLength;
      }
      this.#blocked = !this.#duplex.write(together);
    }
    if (this.#blocked) outbox.stuck();
  }
}

const pour = (session: DuplexSession): void => session.pour();
const sizeOf = (bytes: Uint8Array): number => bytes.byteLength;
