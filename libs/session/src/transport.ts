/**
 * An agent's stream and its unary calls over one HTTP/2 connection; or its
 * unary calls alone over HTTP/1.1, for polling. Connect's protocol, because it
 * needs no trailers, which some proxies drop.
 */
import { createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { PollingService } from "@bowline/contract/agent";
import type { Agent } from "node:http";
import type { ClientHttp2Session } from "node:http2";
import { createConnection } from "./connection.ts";
import { maxStreamMessageBytes, maxUnaryMessageBytes } from "./limits.ts";

export type AgentTransport = StreamTransport | PollTransport;

export type StreamTransport = {
  kind: "stream";
  /** Messages of at most 64 KiB, no deadline. */
  stream: Transport;
  /** Messages of at most 4 MiB; a call has 30 s. */
  unary: Transport;
  /** Closes the connection; calls under way fail. A later call dials anew. */
  close(): void;
};

export type PollTransport = {
  kind: "poll";
  /** Messages of at most 4 MiB over HTTP/1.1; a call has 30 s, where it says nothing else. */
  unary: Transport;
  /** Whether a stream would pass now; never rejects. Touches no session. */
  streamPasses(accessToken: string, signal: AbortSignal): Promise<boolean>;
  /** Cuts what is under way. A later call dials anew. */
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
  /** A call is over, also one of which nobody reads what came. */
  callEnded?: () => void;
}): StreamTransport {
  const connection = createConnection(options.url, options.dial, options.callEnded);
  const common = {
    baseUrl: options.url,
    httpVersion: "2",
    sessionManager: connection,
    useBinaryFormat: true,
  } as const;
  return {
    kind: "stream",
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

/** A message through a stream and back takes a round trip; what takes longer is held back by something. */
const probeTimeoutMs = 10_000;

export function createPollTransport(options: {
  url: string;
  /** Dials HTTP/1.1 (`dialledAgent` of @bowline/dial); destroyed by `close`. */
  agent: Agent;
  /** A transport for a stream, to try whether it passes. */
  stream: () => StreamTransport;
}): PollTransport {
  return {
    kind: "poll",
    unary: createConnectTransport({
      baseUrl: options.url,
      httpVersion: "1.1",
      nodeOptions: { agent: options.agent },
      useBinaryFormat: true,
      readMaxBytes: maxUnaryMessageBytes,
      writeMaxBytes: maxUnaryMessageBytes,
      defaultTimeoutMs: unaryTimeoutMs,
    }),
    async streamPasses(accessToken, signal) {
      const transport = options.stream();
      const answered = new AbortController();
      const over = AbortSignal.any([signal, answered.signal, AbortSignal.timeout(probeTimeoutMs)]);
      // The request stays open until its message is back: what buffers whole requests or answers shows.
      const ask = async function* () {
        yield { number: 1 };
        await new Promise<void>((resolve) => {
          over.addEventListener("abort", () => resolve(), { once: true });
          if (over.aborted) resolve();
        });
      };
      try {
        const headers = { authorization: `Bearer ${accessToken}` };
        for await (const { number } of createClient(PollingService, transport.stream).probeStream(ask(), {
          headers,
          signal: over,
        })) {
          if (number === 1) return true;
        }
        return false;
      } catch {
        return false; // Whatever it was: no stream passes.
      } finally {
        answered.abort();
        transport.close();
      }
    },
    close: () => options.agent.destroy(),
  };
}
