/** One REST request while it is answered: its head, its body, and how answers are written. */
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import { constants } from "node:http2";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { newId, problem } from "@bowline/kernel";
import { failureOf } from "./failures.ts";
import type { RestLimits } from "./limits.ts";

export type RestRequest = IncomingMessage | Http2ServerRequest;
export type RestResponse = ServerResponse | Http2ServerResponse;

export type Call = {
  request: RestRequest;
  /** Both kinds of response have what is used of it, with overloads that do not unite. */
  response: ServerResponse;
  /** As the client sent it, or a new one. Goes to the handler and back to the client. */
  requestId: string;
  /** Aborts when the client goes away before the end of the answer. */
  gone: AbortSignal;
  /** See RestLimits. */
  discardWithinMs: number;
};

/** What is taken as an id of a request: short and printable, so that logs stay readable. */
const requestIdPattern = /^[\w.:-]{1,64}$/;

export function startCall(
  request: RestRequest,
  response: RestResponse,
  limits: Pick<RestLimits, "discardWithinMs">,
): Call {
  const given = header(request.headers, "x-request-id");
  const requestId = given !== undefined && requestIdPattern.test(given) ? given : newId("req");
  const gone = new AbortController();
  const sent = response as ServerResponse;
  sent.once("close", () => {
    if (!sent.writableEnded) gone.abort();
  });
  return { request, response: sent, requestId, gone: gone.signal, discardWithinMs: limits.discardWithinMs };
}

/** One header; of repeated ones the first. */
export function header(headers: IncomingHttpHeaders, name: string): string | undefined {
  const value = headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** Headers of the connection and of the body's form; the handler behind gets neither. */
const notPassed =
  /^(:.*|connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|content-.*|accept|accept-.*|expect|connect-.*|grpc-.*|http2-settings|if-match|last-event-id)$/;

/** The headers that go to the handler: authorization, idempotency-key, traces and the like. */
export function passedHeaders(call: Call): Headers {
  const passed = new Headers();
  for (const [name, value] of Object.entries(call.request.headers)) {
    if (notPassed.test(name) || value === undefined) continue;
    passed.set(name, Array.isArray(value) ? value.join(", ") : value);
  }
  passed.set("x-request-id", call.requestId);
  const authority = header(call.request.headers, ":authority"); // HTTP/2's name for what the client dialled
  if (authority !== undefined) passed.set("host", authority);
  return passed;
}

const jsonTypes = /^application\/(json|merge-patch\+json)$/;

/** Reads the whole body. Throws UNSUPPORTED_MEDIA_TYPE, BODY_TOO_LARGE, or MALFORMED_BODY if it comes too slowly or breaks off. */
export async function readBody(
  call: Call,
  limits: Pick<RestLimits, "maxBodyBytes" | "bodyWithinMs">,
): Promise<Uint8Array> {
  const { headers } = call.request;
  if (Number(header(headers, "content-length") ?? 0) > limits.maxBodyBytes) throw tooLarge(limits);
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    reject(problem("MALFORMED_BODY", `The body has not arrived within ${limits.bodyWithinMs} ms.`));
  }, limits.bodyWithinMs);
  try {
    const body = await Promise.race([collect(call, limits), late]);
    if (body.length > 0) checkType(headers);
    return body;
  } finally {
    clearTimeout(timer);
  }
}

async function collect({ request }: Call, limits: Pick<RestLimits, "maxBodyBytes">): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    // Leaving the loop must not destroy the request: the connection carries the answer.
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limits.maxBodyBytes) break;
      chunks.push(chunk);
    }
  } catch (error) {
    throw problem("MALFORMED_BODY", "The body breaks off.", { cause: error });
  }
  if (size > limits.maxBodyBytes) throw tooLarge(limits);
  return Buffer.concat(chunks);
}

function tooLarge(limits: Pick<RestLimits, "maxBodyBytes">): Error {
  return problem("BODY_TOO_LARGE", `A body has at most ${limits.maxBodyBytes} bytes.`, {
    metadata: { limitBytes: String(limits.maxBodyBytes) },
  });
}

function checkType(headers: IncomingHttpHeaders): void {
  const encoding = header(headers, "content-encoding") ?? "identity";
  if (encoding.toLowerCase() !== "identity") {
    throw problem("UNSUPPORTED_MEDIA_TYPE", "Bodies are read without a content encoding.");
  }
  const [type = "", ...parameters] = (header(headers, "content-type") ?? "").toLowerCase().split(";");
  const charset = parameters.map((one) => one.trim()).find((one) => one.startsWith("charset="));
  const utf8 = charset === undefined || /^charset="?utf-?8"?$/.test(charset);
  if (jsonTypes.test(type.trim()) && utf8) return;
  throw problem("UNSUPPORTED_MEDIA_TYPE", "Send the body as JSON, with the header `Content-Type: application/json`.");
}

/** Headers of every answer: they are for one caller, and are what their type says. */
export function commonHeaders(call: Call): Record<string, string> {
  return { "x-request-id": call.requestId, "cache-control": "no-store", "x-content-type-options": "nosniff" };
}

/** Answers JSON; to HEAD without the body. */
export function answerJson(call: Call, status: number, value: unknown, headers: Record<string, string> = {}): void {
  const { request, response } = call;
  if (response.headersSent || response.destroyed) return;
  const bytes = Buffer.from(`${JSON.stringify(value)}\n`);
  response.writeHead(status, {
    ...commonHeaders(call),
    "content-type": "application/json",
    "content-length": String(bytes.length),
    ...headers,
  });
  response.end(request.method === "HEAD" ? undefined : bytes);
}

/**
 * Answers a failure. What is still coming of the body is read and thrown away
 * for a while, because most clients read an answer only after they have sent
 * all; then the connection, or the stream in HTTP/2, is cut.
 */
export function answerFailure(call: Call, error: unknown, headers: Record<string, string> = {}): void {
  const failure = failureOf(error, call.requestId);
  answerJson(call, failure.status, failure.body, { ...failure.headers, ...headers });
  const { request, discardWithinMs } = call;
  // A request whose answer is finished is not told any more that its connection closed.
  const carrier = "stream" in request ? request.stream : request.socket;
  if (request.complete || request.destroyed || carrier.destroyed) return;
  const cut = setTimeout(() => {
    if ("stream" in request) request.stream.close(constants.NGHTTP2_NO_ERROR);
    else request.socket.destroy();
  }, discardWithinMs);
  const done = (): void => {
    clearTimeout(cut);
    request.off("end", done);
    carrier.off("close", done);
  };
  carrier.once("close", done);
  request.once("end", done).resume();
}
