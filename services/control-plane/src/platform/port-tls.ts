/**
 * TLS in front of the port's protocols.
 *
 * Y1: a client certificate counts only if the CA of clients issued it; one that
 *     it did not issue is as if none had come. Who must have one is not decided
 *     here.
 */
import { createServer, type Server, type TlsOptions, type TLSSocket } from "node:tls";
import type { Socket } from "node:net";
import { thumbprintOf } from "./tls-files.ts";
import type { PortTls } from "./tls.ts";

/** First byte of a TLS connection: the record of a handshake (RFC 8446, 5.1). */
const handshakeRecord = 0x16;

/** Where a connection keeps its client certificate's thumbprint; the request's handler reads it. */
const thumbprintKey: unique symbol = Symbol("client certificate");

export interface PortTlsServer {
  /** Takes a connection whose first bytes were given back. */
  accept(socket: Socket): void;
}

/**
 * `secured` gets each connection after its handshake. A handshake that takes
 * longer than `withinMs` is closed.
 */
export function createPortTls(
  tls: PortTls,
  withinMs: number,
  secured: (socket: TLSSocket) => void,
  log: { debug(fields: object, message: string): void },
): PortTlsServer {
  const server: Server = createServer({
    ...common(tls.options()),
    ALPNProtocols: ["h2", "http/1.1"],
    handshakeTimeout: withinMs,
  });
  tls.changed(() => server.setSecureContext(common(tls.options())));
  server.on("secureConnection", (socket) => {
    const { raw } = socket.getPeerCertificate() as { raw?: Buffer };
    if (socket.authorized && raw !== undefined) Object.assign(socket, { [thumbprintKey]: thumbprintOf(raw) }); // Y1
    secured(socket);
  });
  server.on("tlsClientError", (error, socket) => {
    log.debug({ err: error, remoteAddress: socket.remoteAddress }, "a TLS handshake failed");
    socket.destroy();
  });
  return { accept: (socket) => void server.emit("connection", socket) };
}

function common(options: TlsOptions): TlsOptions {
  const asks = options.ca !== undefined;
  // Whoever shows none gets through: whether it must is its cluster's to say.
  return { ...options, minVersion: "TLSv1.2", requestCert: asks, rejectUnauthorized: false };
}

/** True if these are the first bytes of TLS. */
export function isTls(head: Uint8Array): boolean {
  return head[0] === handshakeRecord;
}

/** Thumbprint (`sha256:…`) of the client certificate with which a request's connection came; empty: none. */
export function clientThumbprintOf(socket: object | null | undefined): string {
  return (socket as { [thumbprintKey]?: string } | null | undefined)?.[thumbprintKey] ?? "";
}

/** What whoever speaks clear text to a port of TLS is told; closes the connection. */
export function refuseClearText(socket: Socket): void {
  const body = "This port speaks TLS: use https://.\n";
  const head = `HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: ${body.length}`;
  socket.on("error", () => undefined); // it may be gone already
  socket.end(`${head}\r\n\r\n${body}`, () => socket.destroy());
}
