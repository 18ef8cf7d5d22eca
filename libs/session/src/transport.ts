/**
 * An agent's stream and its unary calls over one HTTP/2 connection. Connect's
 * protocol, because it needs no trailers, which some proxies drop.
 */
import type { Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import type { ClientHttp2Session } from "node:http2";
import { createConnection } from "./connection.ts";
import { maxStreamMessageBytes, maxUnaryMessageBytes } from "./limits.ts";

export type AgentTransport = {
  /** Messages of at most 64 KiB, no deadline. */
  stream: Transport;
  /** Messages of at most 4 MiB; a call has 30 s. */
  unary: Transport;
  /** Closes the connection; calls under way fail. A later call dials anew. */
  close(): void;
};

/** A unary call that takes longer is asked again. Answers have up to 4 MiB over slow lines. */
export const unaryTimeoutMs = 30_000;

export function createAgentTransport(options: {
  /** `http://…` or `https://…` of the server; a path is a prefix. */
  url: string;
  /**
   * Opens a connection, at the first call and after each end. What it rejects
   * with is the call's UNAVAILABLE; its `reason`, if it has one, is what
   * refusalOf reads (`dialHttp2` of @bowline/dial).
   */
  dial: (signal: AbortSignal) => Promise<ClientHttp2Session>;
}): AgentTransport {
  const connection = createConnection(options.url, options.dial);
  const common = {
    baseUrl: options.url,
    httpVersion: "2",
    sessionManager: connection,
    useBinaryFormat: true,
  } as const;
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
    close: () => connection.close(),
  };
}
