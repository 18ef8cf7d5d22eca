/**
 * One function behind the port: health and metrics, REST, then Connect, gRPC and
 * gRPC-Web. Before it, what our own wire serves.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import type { Wire } from "@bowline/session";
import type { ClientAddress } from "./client-address.ts";
import type { Cors } from "./cors.ts";
import { clientCertificateHeader, remoteAddressHeader } from "./calls.ts";
import type { Scrape } from "./metrics-access.ts";
import { clientThumbprintOf } from "./port-tls.ts";
import type { PortHandler, StreamHandler } from "./port.ts";

type Request = IncomingMessage | Http2ServerRequest;
type Response = ServerResponse | Http2ServerResponse;

export interface HttpParts {
  /** Who dialled, behind whichever proxies are trusted. */
  clientAddress: ClientAddress;
  cors: Cors;
  rest: {
    handle(request: Request, response: Response): boolean;
    notFound(request: Request, response: Response): void;
    fail(request: Request, response: Response, error: unknown): void;
    openapi(): object;
  };
  /** Connect's own adapter; answers 404 where it has no such method. */
  connect(request: Request, response: Response): void;
  /** Whether the server should get new requests, and what is wrong if not. */
  ready(): Promise<{ ready: boolean; checks: Record<string, string> }>;
  /** Throws a problem where whoever asks may not. */
  metrics(scrape: Scrape): Promise<{ contentType: string; body: string }>;
  version: string;
}

/** Paths of Connect and gRPC: `/package.Service/Method`. */
const methodPath = /^\/[\w.]+\.[A-Z]\w*\/[A-Z]\w*$/;

export function createHttpHandler(parts: HttpParts): PortHandler {
  return async (request, response) => {
    // What a client sends under these names would be its own word for where and who it is.
    request.headers[remoteAddressHeader] = parts.clientAddress(request.socket?.remoteAddress, request.headers);
    request.headers[clientCertificateHeader] = clientThumbprintOf(request.socket);
    if (parts.cors(request, response)) return;
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    const reads = request.method === "GET" || request.method === "HEAD";
    if (reads && path === "/health") return json(request, response, 200, { status: "ok", version: parts.version });
    if (reads && path === "/ready") {
      const { ready, checks } = await parts.ready();
      return json(request, response, ready ? 200 : 503, { status: ready ? "ready" : "not ready", checks });
    }
    if (reads && path === "/metrics") {
      const remoteAddress = request.socket?.remoteAddress ?? "";
      try {
        const { contentType, body } = await parts.metrics({ headers: request.headers, remoteAddress });
        return send(request, response, 200, contentType, body);
      } catch (error) {
        return parts.rest.fail(request, response, error);
      }
    }
    if (reads && path === "/openapi.json") return json(request, response, 200, parts.rest.openapi());
    if (methodPath.test(path)) return parts.connect(request, response);
    if (!parts.rest.handle(request, response)) parts.rest.notFound(request, response);
  };
}

/**
 * Gives our own wire the calls that it takes, and leaves the rest to connect-node: other services, gRPC-Web,
 * compressed messages, what browsers send (they name their origin), and who asks before it sends (`expect`).
 */
export function createStreamHandler({
  clientAddress,
  wire,
}: {
  clientAddress: ClientAddress;
  wire: Wire;
}): StreamHandler {
  return (stream, headers) => {
    if (headers.origin !== undefined || headers.expect !== undefined) return false;
    if (!wire.takes(headers) || wire.compressed(headers)) return false;
    // Gone before it was looked at: its socket throws, and there is nobody to answer.
    if (stream.destroyed || stream.session === undefined || stream.session.destroyed) return true;
    const { socket } = stream.session;
    headers[remoteAddressHeader] = clientAddress(socket?.remoteAddress, headers);
    headers[clientCertificateHeader] = clientThumbprintOf(socket);
    wire.serve(stream, headers);
    return true;
  };
}

function json(request: Request, response: Response, status: number, body: object): void {
  send(request, response, status, "application/json", JSON.stringify(body));
}

function send(request: Request, response: Response, status: number, contentType: string, body: string): void {
  response.statusCode = status;
  response.setHeader("content-type", contentType);
  response.setHeader("content-length", Buffer.byteLength(body));
  (response as ServerResponse).end(request.method === "HEAD" ? undefined : body);
}
