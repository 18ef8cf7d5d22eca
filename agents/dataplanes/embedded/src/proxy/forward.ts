/**
 * One request to its backend and the answer back. Bodies stream both ways, as
 * fast as the slower side takes them; nothing is held whole.
 *
 *   plan.ts     says where it goes        mirror.ts   copies of it
 *   upgrade.ts  the same for WebSockets
 *
 * W1: every request gets exactly one ending: the backend's answer, one of
 *     answers.ts, or (once headers are out) a cut connection.
 * W2: when the client leaves, the request to the backend ends.
 */
import { request, type ClientRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { answer, type AnswerReason } from "./answers.ts";
import { corsHeaders } from "./cors.ts";
import { forBackend, hasBody, onwardHeaders, returnHeaders, trailerList } from "./headers.ts";
import { startMirrors } from "./mirror.ts";
import type { Forwarding } from "./plan.ts";
import { ConnectError } from "./pools.ts";

/** Of the contract: HttpRoute.backend_request_timeout. */
export const defaultBackendTimeoutMs = 30_000;
/** A backend's header block; larger is broken. */
export const maxResponseHeaderBytes = 32 * 1024;
/** Tries on connections that turn out to be closed already, for requests that may be repeated; the last is on a new one. */
const maxStale = 2;

/** Without a body and repeatable (RFC 9110, 9.2.2). */
const repeatable: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]);

/** `port` is the listener's. Ends by itself; the response's `close` tells when. */
export function forward(req: IncomingMessage, res: ServerResponse, plan: Forwarding, port: number): void {
  const { route } = plan.entry;
  const body = hasBody(req);
  const headers = onwardHeaders(req, {
    host: plan.host,
    originalHost: plan.originalHost,
    port,
    changes: route.requestHeaders,
    upgrade: undefined,
  });
  let upstream: ClientRequest;
  let response: IncomingMessage | undefined;
  let ended = false;

  const wholeTimer =
    route.requestTimeoutMs === undefined
      ? undefined
      : setTimeout(() => fail("REQUEST_TIMEOUT"), route.requestTimeoutMs);
  const tryTimer = setTimeout(
    () => fail(body && !req.complete && !upstream.writableNeedDrain ? "REQUEST_BODY_STALLED" : "BACKEND_TIMEOUT"),
    route.backendTimeoutMs ?? defaultBackendTimeoutMs,
  );

  res.once("close", () => {
    settle();
    if (res.writableFinished && req.complete) return;
    upstream.destroy(); // W2
    // The rest of a body that nobody wants is read away, so that the client sees the answer.
    req.unpipe();
    req.resume();
  });

  function settle(): void {
    ended = true;
    clearTimeout(wholeTimer);
    clearTimeout(tryTimer);
  }

  /** W1. */
  function fail(reason: AnswerReason): void {
    if (ended) return;
    settle();
    if (res.headersSent) res.destroy();
    else answer(res, reason, plan.cors);
    upstream.destroy();
  }

  function open(stale: number): ClientRequest {
    const outgoing = request({
      ...plan.backend.pool.options(stale > 0),
      method: req.method!,
      path: plan.backend.basePath + plan.target,
      headers: forBackend(headers, plan.backend.secretHeaders),
      maxHeaderSize: maxResponseHeaderBytes,
    });
    outgoing.on("error", (error) => {
      if (ended || outgoing !== upstream || response?.complete === true) return;
      const again = !body && stale < maxStale && outgoing.reusedSocket && repeatable.has(req.method!);
      if (again && !res.headersSent && isClosed(error)) {
        upstream = open(stale + 1);
        upstream.end();
      } else {
        fail(reasonOf(error));
      }
    });
    outgoing.on("close", () => {
      if (outgoing === upstream && response === undefined) fail("BACKEND_BROKEN");
    });
    outgoing.once("continue", () => res.writeContinue());
    outgoing.once("response", (incoming) => {
      try {
        onResponse(incoming);
      } catch {
        // A status or header that Node's parser lets in and its writer does not let out.
        fail("BACKEND_BROKEN");
        incoming.destroy();
      }
    });
    return outgoing;
  }

  function onResponse(incoming: IncomingMessage): void {
    response = incoming;
    if (ended) return void incoming.destroy();
    clearTimeout(tryTimer);
    const replace = plan.cors === undefined ? undefined : corsHeaders;
    const back = returnHeaders(incoming, route.responseHeaders, replace, plan.cors ?? []);
    const text = incoming.statusMessage ?? "";
    res.writeHead(incoming.statusCode!, /^[\t\x20-\x7e]*$/.test(text) ? text : "", back);
    // A short answer goes out in one packet; one of unknown length may begin long before its first byte.
    if (incoming.headers["content-length"] === undefined) res.flushHeaders();
    incoming.pipe(res, { end: false });
    incoming.once("error", () => fail("BACKEND_BROKEN"));
    incoming.once("end", () => {
      const trailers = trailerList(incoming);
      if (trailers.length > 0) res.addTrailers(trailers);
      res.end();
    });
    incoming.once("close", () => {
      if (!incoming.complete) fail("BACKEND_BROKEN");
    });
  }

  upstream = open(0);
  const mirrors = startMirrors(req, plan, headers, body);
  if (!body) {
    upstream.end();
    return;
  }
  upstream.flushHeaders();
  if (route.backendTimeoutMs === undefined || mirrors.length > 0) {
    req.on("data", (chunk: Buffer) => {
      if (route.backendTimeoutMs === undefined && !ended) tryTimer.refresh();
      for (const mirror of mirrors) mirror.write(chunk);
    });
  }
  req.pipe(upstream, { end: false });
  req.once("end", () => {
    const trailers = trailerList(req);
    if (trailers.length > 0) upstream.addTrailers(trailers);
    upstream.end();
    for (const mirror of mirrors) mirror.end();
  });
}

function isClosed(error: Error): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ECONNRESET" || code === "EPIPE";
}

const unreachable: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EAI_NODATA",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ETIMEDOUT",
  "EADDRNOTAVAIL",
  "EMFILE",
]);

/** What a client is told about an error towards the backend. */
export function reasonOf(error: Error): AnswerReason {
  if (error instanceof ConnectError)
    return error.reason === "PRIVATE_BACKEND" ? "PRIVATE_BACKEND" : "BACKEND_UNREACHABLE";
  const code = (error as NodeJS.ErrnoException).code ?? "";
  const untrusted = code.includes("CERT") || code.startsWith("ERR_TLS") || code.startsWith("ERR_SSL");
  return unreachable.has(code) || untrusted ? "BACKEND_UNREACHABLE" : "BACKEND_BROKEN";
}
