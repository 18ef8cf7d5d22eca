/**
 * Which web pages of other origins may read what the port answers: REST,
 * Connect and gRPC-Web alike.
 *
 * O1: credentials are never allowed. A page sends an API token itself; the
 *     browser adds no cookie, so `*` gives nobody's session away.
 * O2: an origin is compared as a whole, never by a part of it.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { cors } from "@connectrpc/connect";

const methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].join(", ");
const requestHeaders = [
  ...cors.allowedHeaders,
  "Authorization",
  "Idempotency-Key",
  "If-Match",
  "If-None-Match",
  "Last-Event-ID",
  "X-Request-Id",
].join(", ");
const exposedHeaders = [
  ...cors.exposedHeaders,
  "Allow",
  "Bowline-Dispatch",
  "ETag",
  "Location",
  "Retry-After",
  "WWW-Authenticate",
  "X-Request-Id",
].join(", ");
/** The longest that Chromium keeps the answer to a preflight. */
const preflightSeconds = 7_200;

/** Sets what a browser asks for; true where the request was a preflight and is answered. */
export type Cors = (
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse | Http2ServerResponse,
) => boolean;

/** The origins of a setting: empty, `*`, or exact ones, e.g. `https://console.example:8443`. Throws for anything else. */
export function originsOf(setting: string): readonly string[] {
  const origins = setting
    .split(",")
    .map((origin) => origin.trim())
    .filter((origin) => origin !== "");
  for (const origin of origins) {
    if (origin === "*" ? origins.length > 1 : !isOrigin(origin)) {
      throw new Error(`${origin} is no origin: expected * alone, or https://HOST[:PORT] without a path`);
    }
  }
  return origins;
}

/** As browsers write it: lower case, no path, no default port. */
function isOrigin(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && /^https?:$/.test(url.protocol) && url.origin === text && !text.includes("*");
}

export function createCors(origins: readonly string[]): Cors {
  const allowed = new Set(origins); // O2
  const any = allowed.has("*");
  return (request, response) => {
    if (allowed.size === 0) return false;
    response.setHeader("vary", "Origin"); // also where the origin is none of ours: a cache must not mix them up
    const { origin } = request.headers;
    if (origin === undefined || !(any || allowed.has(origin))) return false;
    response.setHeader("access-control-allow-origin", any ? "*" : origin);
    if (request.method !== "OPTIONS" || request.headers["access-control-request-method"] === undefined) {
      response.setHeader("access-control-expose-headers", exposedHeaders);
      return false;
    }
    response.statusCode = 204;
    response.setHeader("access-control-allow-methods", methods);
    response.setHeader("access-control-allow-headers", requestHeaders);
    response.setHeader("access-control-max-age", preflightSeconds);
    (response as ServerResponse).end();
    return true;
  };
}
