/**
 * The server's end of an agent's stream, inside a Connect handler:
 *
 *     async *connect(requests, context) {
 *       const session = acceptSession(requests, { clock, hangUp: context.values.get(hangUpKey) });
 *       void serve(session, context);     // reads session.messages, calls session.send, ends with session.close
 *       yield* session.outgoing;
 *     }
 */
import { toBinary } from "@bufbuild/protobuf";
import { createContextKey, type ContextKey } from "@connectrpc/connect";
import { ServerMessageSchema, type AgentMessage, type ServerMessage } from "@bowline/contract/agent";
import type { Clock } from "@bowline/kernel";
import { createChannel, type Channel } from "./channel.ts";
import { orderOfAgentMessages } from "./order.ts";

export interface AcceptedSession extends Channel<ServerMessage, AgentMessage> {
  /** What the handler yields. Ends with the channel; throws the problem that the channel was closed with. */
  readonly outgoing: AsyncIterable<ServerMessage>;
}

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

export function acceptSession(
  requests: AsyncIterable<AgentMessage>,
  options: { clock: Clock; hangUp: () => void; silenceMs?: number; maxQueued?: number; stallMs?: number },
): AcceptedSession {
  const { channel, outbox } = createChannel<ServerMessage, AgentMessage>(requests, {
    ...options,
    sizeOf: (message) => toBinary(ServerMessageSchema, message).byteLength,
    coalesce: ({ message }) => (message.case === "heartbeatAck" ? "heartbeat_ack" : undefined),
    order: orderOfAgentMessages(),
  });
  return Object.defineProperties(channel, {
    outgoing: { value: outbox, enumerable: true },
  }) as AcceptedSession;
}
