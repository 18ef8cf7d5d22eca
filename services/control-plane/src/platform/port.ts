/**
 * One TCP port for HTTP/1.1 and HTTP/2, in clear text (h2c) or over TLS.
 *
 *   port-limits.ts     every bound of it, with its reason
 *   port-decide.ts     which protocol it is, and who has not shown it yet
 *   port-tls.ts        TLS in front
 *   port-sessions.ts   pings, idle ends and the drain of HTTP/2 sessions
 *
 * W1: a connection in clear text is HTTP/2 if it begins with the 24 bytes of
 *     HTTP/2's preface, HTTP/1.1 at the first byte that differs. Nothing is
 *     consumed. Over TLS it is what ALPN chose; HTTP/1.1 where nothing was.
 * W2: whoever sends nothing, half a handshake, half a preface or half a header
 *     block is closed within a named time, and holds a bounded amount of
 *     memory until then.
 * W3: after `close` nothing new is accepted; what is open may end within the
 *     grace; then nothing is left open.
 */
import { once } from "node:events";
import { createServer as createHttp1 } from "node:http";
import type { IncomingMessage, Server as Http1Server, ServerResponse } from "node:http";
import { constants, createServer as createHttp2 } from "node:http2";
import type {
  Http2Server,
  Http2ServerRequest,
  Http2ServerResponse,
  IncomingHttpHeaders,
  ServerHttp2Stream,
} from "node:http2";
import { createServer as createTcp } from "node:net";
import type { AddressInfo, Server as TcpServer, Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { problem } from "@bowline/kernel";
import { createWaitingRoom, firstBytes, protocolOf } from "./port-decide.ts";
import { portLimits } from "./port-limits.ts";
import type { PortLimits } from "./port-limits.ts";
import { keepSessions } from "./port-sessions.ts";
import { createPortTls, isTls, refuseClearText } from "./port-tls.ts";
import type { PortTls } from "./tls.ts";

/** One function answers both protocols. What it throws or rejects with is answered with 500. */
export type PortHandler = (
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse | Http2ServerResponse,
) => void | Promise<void>;

/** Takes HTTP/2 streams before they become requests; true where it has. What it throws is a defect. */
export type StreamHandler = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean;

/** What the port tells; pino's shape. */
export type PortLog = {
  debug(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
};

export type PortOptions = {
  /** Address to bind, e.g. `127.0.0.1`, `0.0.0.0`, `::`. */
  host: string;
  /** 0: any free one. */
  port: number;
  handler: PortHandler;
  /** Undefined: every stream is a request. */
  streams?: StreamHandler | undefined;
  log: PortLog;
  limits?: Partial<PortLimits>;
  /** Undefined: clear text. */
  tls?: PortTls | undefined;
};

export type Port = {
  /** How this machine reaches it: a wildcard address is shown as loopback. */
  url: string;
  port: number;
  /** Connections that are open now, for metrics. */
  connections(): number;
  /**
   * Stops accepting, says goodbye (GOAWAY, `connection: close`), waits up to
   * `graceMs` for what is open, then closes that too. Never throws; a second
   * call gets the same end.
   */
  close(graceMs: number): Promise<void>;
};

/**
 * Resolves when the port accepts connections. When `signal` aborts, it closes
 * without a grace.
 *
 * Throws PORT_IN_USE if another program has the port, INVALID_ARGUMENT if the
 * address cannot be bound otherwise.
 */
export async function listen(options: PortOptions, signal?: AbortSignal): Promise<Port> {
  signal?.throwIfAborted();
  const limits: PortLimits = { ...portLimits, ...options.limits };
  const phase = { closing: false };
  const http1 = http1Server(options, limits, phase);
  const http2 = http2Server(options, limits);
  const sessions = keepSessions(http2, limits, options.log);
  const sockets = new Set<Socket>();
  const waiting = createWaitingRoom(limits);
  /** Handshakes under way: the TLS socket that comes of one has its addresses, and no other way back. */
  const handshakes = new Map<string, () => void>();
  const secure =
    options.tls === undefined ? undefined : createPortTls(options.tls, limits.decideWithinMs, secured, options.log);

  const tcp = createTcp({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    const leave = waiting.enter(socket);
    const decided = (protocol: "http1" | "http2"): void => {
      leave();
      serve(protocol, socket);
    };
    if (secure === undefined) return firstBytes(socket, protocolOf, decided);
    firstBytes(
      socket,
      (head) => (isTls(head) ? "tls" : "clear"),
      (kind) => {
        if (kind === "clear") {
          leave();
          return refuseClearText(socket);
        }
        const peer = peerOf(socket);
        handshakes.set(peer, leave);
        socket.once("close", () => handshakes.delete(peer));
        secure.accept(socket);
      },
    );
  });

  function secured(socket: TLSSocket): void {
    const leave = handshakes.get(peerOf(socket));
    if (socket.alpnProtocol === "h2") {
      leave?.();
      return serve("http2", socket);
    }
    socket.allowHalfOpen = true;
    firstBytes(socket, protocolOf, () => {
      leave?.();
      serve("http1", socket); // W1: without ALPN too, where HTTP/2's preface is no request
    });
  }

  function serve(protocol: "http1" | "http2", socket: Socket): void {
    if (protocol === "http1") {
      http1.emit("connection", socket);
      socket.resume();
    } else {
      socket.allowHalfOpen = false; // an HTTP/2 peer that ends its side is gone
      http2.emit("connection", socket);
    }
  }
  tcp.maxConnections = limits.maxConnections;
  tcp.on("drop", (dropped) => {
    options.log.warn({ remoteAddress: dropped?.remoteAddress }, "connection refused: too many are open");
  });

  await bind(tcp, options);
  // A server that never listens itself enforces no timeouts unless it believes that it does.
  http1.emit("listening");
  const { port } = tcp.address() as AddressInfo;

  let closed: Promise<void> | undefined;
  const close = (graceMs: number): Promise<void> => (closed ??= end(graceMs));
  const onAbort = (): void => void close(0);
  signal?.addEventListener("abort", onAbort, { once: true });
  return {
    url: urlOf(options.tls === undefined ? "http" : "https", options.host, port),
    port,
    connections: () => sockets.size,
    close,
  };

  async function end(graceMs: number): Promise<void> {
    signal?.removeEventListener("abort", onAbort);
    phase.closing = true;
    const allClosed = new Promise<void>((resolve) => tcp.close(() => resolve()));
    waiting.clear();
    http1.close(() => {}); // it never listened, so it calls back with an error; it closes what is idle
    sessions.drain();
    const force = setTimeout(() => {
      for (const socket of sockets) socket.destroy();
    }, graceMs);
    await allClosed;
    for (const socket of sockets) await once(socket, "close"); // the server counts one down before it has closed
    clearTimeout(force);
    sessions.stop();
  }
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

function http1Server(options: PortOptions, limits: PortLimits, phase: { closing: boolean }): Http1Server {
  const server: Http1Server = createHttp1(
    {
      maxHeaderSize: limits.maxHeaderBytes,
      headersTimeout: limits.headersWithinMs,
      requestTimeout: limits.requestWithinMs,
      keepAliveTimeout: limits.idleHttp1Ms,
      connectionsCheckingInterval: Math.ceil(limits.headersWithinMs / 2),
    },
    (request, response) => {
      if (phase.closing) response.setHeader("connection", "close");
      response.once("close", () => {
        if (phase.closing) server.closeIdleConnections(); // it became idle after `close` looked
      });
      if (request.headers.upgrade?.toLowerCase() === "websocket") return refuseUpgrade(response);
      answer(options, request, response);
    },
  );
  return server;
}

function http2Server(options: PortOptions, limits: PortLimits): Http2Server {
  // It never gets a connection: it makes requests of the streams that are given to it.
  const requests = createHttp2((request, response) => answer(options, request, response));
  const server = createHttp2({
    maxSessionMemory: limits.maxSessionMegabytes,
    maxHeaderListPairs: limits.maxHeaders,
    settings: {
      enablePush: false,
      maxConcurrentStreams: limits.maxStreams,
      maxHeaderListSize: limits.maxHeaderBytes,
    },
  });
  server.on("stream", (stream, headers, flags, rawHeaders) => {
    if (headerBytes(rawHeaders) > limits.maxHeaderBytes) {
      stream.on("error", (error) => options.log.debug({ err: error }, "request aborted"));
      // Until the peer has seen our settings, HTTP/2 itself enforces a larger limit.
      if (!stream.destroyed && !stream.closed) stream.respond({ ":status": 431 }, { endStream: true });
      return;
    }
    try {
      if (options.streams?.(stream, headers) === true) return;
    } catch (error) {
      options.log.error({ err: error }, "a stream's handler failed");
      return stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    }
    requests.emit("stream", stream, headers, flags, rawHeaders);
  });
  return server;
}

function headerBytes(rawHeaders: readonly string[]): number {
  return rawHeaders.reduce((sum, text) => sum + text.length, 0);
}

function answer(
  { handler, log }: PortOptions,
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse | Http2ServerResponse,
): void {
  const failed = (error: unknown): void => {
    log.error({ err: error }, "a request's handler failed");
    if (response.headersSent) return void response.destroy();
    response.statusCode = 500;
    response.end();
  };
  // A stream that the peer reset emits `error` on the request or response; without a listener that ends the process.
  request.on("error", (error) => log.debug({ err: error }, "request aborted"));
  response.on("error", (error: Error) => log.debug({ err: error }, "response aborted"));
  try {
    handler(request, response)?.catch(failed);
  } catch (error) {
    failed(error);
  }
}

function refuseUpgrade(response: ServerResponse): void {
  response.writeHead(501, { connection: "close", "content-type": "text/plain" });
  response.end("This server speaks HTTP and no WebSocket.\n");
}

function bind(tcp: TcpServer, { host, port }: PortOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    tcp.once("error", (error: NodeJS.ErrnoException) => reject(bindProblem(error, host, port)));
    tcp.listen({ host, port }, () => resolve());
  });
}

function bindProblem(error: NodeJS.ErrnoException, host: string, port: number): Error {
  const where = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  if (error.code === "EADDRINUSE") {
    const remedy = "stop that program, or choose another port with --port (0: any free one)";
    return problem("PORT_IN_USE", `${where} is taken by another program: ${remedy}`, { cause: error });
  }
  return problem("INVALID_ARGUMENT", `cannot listen on ${where}: ${error.code ?? error.message}`, { cause: error });
}

function urlOf(scheme: "http" | "https", host: string, port: number): string {
  const reachable = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  return `${scheme}://${reachable.includes(":") ? `[${reachable}]` : reachable}:${port}`;
}
