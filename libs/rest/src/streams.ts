/**
 * Server streams over REST: NDJSON, or server-sent events where the client
 * accepts them.
 *
 * S1: a failure before the first message has an HTTP status of its own; a later one is the last line or event.
 * S2: a quiet stream sends heartbeats: an empty line, or a comment.
 * S3: a slow reader slows the stream; one that takes nothing is closed.
 * S4: however a stream ends, its handler's signal aborts.
 */
import { once } from "node:events";
import { toJson } from "@bufbuild/protobuf";
import type { DescMessage, JsonValue, Message, Registry } from "@bufbuild/protobuf";
import { commonHeaders, header } from "./call.ts";
import type { Call } from "./call.ts";
import { failureOf } from "./failures.ts";
import type { RestLimits } from "./limits.ts";

type Bounds = Pick<RestLimits, "heartbeatMs" | "streamHeadWithinMs" | "stalledWithinMs">;

/** How one kind of stream words what it sends. */
type Wording = {
  contentType: string;
  message(json: JsonValue): string;
  failure(body: unknown): string;
  heartbeat: string;
};

const ndjson: Wording = {
  contentType: "application/x-ndjson",
  message: (json) => `${JSON.stringify(json)}\n`,
  failure: (body) => `${JSON.stringify({ error: body })}\n`,
  heartbeat: "\n",
};

const serverSentEvents: Wording = {
  contentType: "text/event-stream",
  message(json) {
    const cursor = typeof json === "object" && json !== null && !Array.isArray(json) ? json["cursor"] : undefined;
    const id = typeof cursor === "string" && cursor !== "" && !/[\r\n\0]/.test(cursor) ? `id: ${cursor}\n` : "";
    return `${id}data: ${JSON.stringify(json)}\n\n`;
  },
  failure: (body) => `event: error\ndata: ${JSON.stringify(body)}\n\n`,
  heartbeat: ": still here\n\n",
};

/** True where the client would rather have server-sent events. */
export function wantsEvents(call: Call): boolean {
  return /\btext\/event-stream\b/i.test(header(call.request.headers, "accept") ?? "");
}

/**
 * Opens a stream and sends what comes until it ends, the client goes, or
 * `draining` aborts, which ends the answer cleanly. `stop` aborts the handler.
 * Throws only what the stream threw before its first message (S1).
 */
export async function answerStream(
  call: Call,
  open: () => Promise<AsyncIterable<Message>>,
  output: DescMessage,
  options: { bounds: Bounds; registry?: Registry; stop: AbortController; draining: AbortSignal | undefined },
): Promise<void> {
  const { response } = call;
  const { bounds, stop, draining } = options;
  const wording = wantsEvents(call) ? serverSentEvents : ndjson;
  const end = (): void => stop.abort();
  call.gone.addEventListener("abort", end, { once: true });
  draining?.addEventListener("abort", end, { once: true });
  if (call.gone.aborted || draining?.aborted === true) end();

  const head = (): void => {
    if (response.headersSent) return;
    response.writeHead(200, { ...commonHeaders(call), "content-type": wording.contentType, "x-accel-buffering": "no" });
    response.flushHeaders();
  };
  const headTimer = setTimeout(head, bounds.streamHeadWithinMs);
  const heartbeat = setInterval(() => {
    if (response.headersSent && !response.writableNeedDrain) response.write(wording.heartbeat); // S2
  }, bounds.heartbeatMs);
  try {
    // A handler's first message is waited for here already.
    for await (const message of await open()) {
      clearTimeout(headTimer);
      head();
      const json = toJson(output, message, { alwaysEmitImplicit: true, registry: options.registry });
      if (!response.write(wording.message(json))) await drained(call, bounds.stalledWithinMs); // S3
      heartbeat.refresh();
    }
    head();
    response.end();
  } catch (error) {
    if (call.gone.aborted) return;
    if (draining?.aborted === true) {
      head();
      response.end();
      return;
    }
    if (!response.headersSent) throw error;
    response.end(wording.failure(failureOf(error, call.requestId).body));
  } finally {
    clearTimeout(headTimer);
    clearInterval(heartbeat);
    call.gone.removeEventListener("abort", end);
    draining?.removeEventListener("abort", end);
    stop.abort(); // S4: leaving the loop alone does not cancel the handler
  }
}

async function drained(call: Call, withinMs: number): Promise<void> {
  const stalled = setTimeout(() => call.response.destroy(), withinMs);
  try {
    await once(call.response, "drain", { signal: call.gone });
  } finally {
    clearTimeout(stalled);
  }
}
