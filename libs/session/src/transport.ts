/**
 * How an agent dials: one HTTP/2 connection for its stream and its unary calls,
 * with pings. Connect's protocol, because it needs no trailers, which some
 * proxies drop.
 */
import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { maxStreamMessageBytes, maxUnaryMessageBytes } from "./limits.ts";

export type AgentTransport = {
  /** Messages of at most 64 KiB, no deadline. */
  stream: Transport;
  /** Messages of at most 4 MiB; a call has 30 s. */
  unary: Transport;
  /** Closes the connection; calls under way fail. A later call dials anew. */
  close(): void;
};

/** Below the idle timers of common NATs (30 s and more), and beside the heartbeats, which are data. */
const pingIntervalMs = 20_000;
/** A ping without an answer for this long is a dead connection. */
const pingTimeoutMs = 10_000;
/** A unary call that takes longer is asked again. Answers have up to 4 MiB over slow lines. */
export const unaryTimeoutMs = 30_000;

export function createAgentTransport(options: {
  /** `http://…` or `https://…` of the server; a path is a prefix. */
  url: string;
  /** PEM of the authorities to trust instead of the system's. */
  ca?: string;
}): AgentTransport {
  const nodeOptions = options.ca === undefined ? {} : { ca: options.ca };
  const sessionManager = new Http2SessionManager(options.url, { pingIntervalMs, pingTimeoutMs }, nodeOptions);
  const common = { baseUrl: options.url, httpVersion: "2", sessionManager, useBinaryFormat: true } as const;
  return {
    stream: createConnectTransport({
      ...common,
      readMaxBytes: maxStreamMessageBytes,
      writeMaxBytes: maxStreamMessageBytes,
    }),
    unary: createConnectTransport({
      ...common,
      readMaxBytes: maxUnaryMessageBytes,
      writeMaxBytes: maxUnaryMessageBytes,
      defaultTimeoutMs: unaryTimeoutMs,
    }),
    close: () => sessionManager.abort(),
  };
}
