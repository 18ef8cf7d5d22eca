/**
 * The framed stream between agent and server, used by both ends behind
 * `{ send, messages, close, ended }`.
 *
 *   limits.ts     sizes and times, with their reasons
 *   order.ts      the order of frames, the one place that knows it
 *   outbox.ts     what waits to be sent: bounded, coalescing, with a stall limit
 *   silence.ts    notices a peer that says nothing
 *   channel.ts    outbox, order and silence around one pair of iterables
 *   accept.ts     the server's end, from a Connect handler
 *   open.ts       the agent's end, over a transport
 *   polling.ts, polling-calls.ts  the agent's end without a stream, over single requests
 *   refusal.ts    what a peer's error says: reason, message, when to come again
 *   wire/         gRPC and Connect without a general handler, for the server
 *   transport.ts  an agent's stream and calls over one connection
 *   tunnels.ts    what both ends of a tunnel keep to
 *   connection.ts that connection: dialled anew where it ended, kept alive by pings
 */
export * from "./accept.ts";
export * from "./channel.ts";
export * from "./limits.ts";
export * from "./open.ts";
export * from "./order.ts";
export * from "./outbox.ts";
export * from "./polling.ts";
export * from "./refusal.ts";
export * from "./silence.ts";
export * from "./transport.ts";
export * from "./tunnels.ts";
export * from "./tunnel-batches.ts";
export * from "./wire/index.ts";
