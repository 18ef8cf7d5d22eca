/** How long the caller waits, as its protocol says it. */
import { Code, ConnectError } from "@connectrpc/connect";
import { parseTimeout as parseConnectTimeout } from "@connectrpc/connect/protocol-connect";
import { parseTimeout as parseGrpcTimeout } from "@connectrpc/connect/protocol-grpc";
import type { IncomingHttpHeaders } from "node:http2";
import type { Protocol } from "./protocol.ts";

/** A longer time is none: a timer of Node takes no more, and fires at once instead. */
const longestTimerMs = 2 ** 31 - 1;

/** Undefined: without end. Throws INVALID_ARGUMENT for what is no time. */
export function timeoutOf(request: IncomingHttpHeaders, { kind, timeout }: Protocol): number | undefined {
  const given = request[timeout];
  if (given === undefined) return undefined;
  const parse = kind === "grpc" ? parseGrpcTimeout : parseConnectTimeout;
  const { timeoutMs, error } = parse(String(given), Number.MAX_SAFE_INTEGER);
  if (error !== undefined) throw error;
  return timeoutMs;
}

/** Calls `late` with DEADLINE_EXCEEDED once that time has passed; returns what stops it. */
export function startDeadline(timeoutMs: number | undefined, late: (error: ConnectError) => void): () => void {
  if (timeoutMs === undefined || timeoutMs > longestTimerMs) return () => undefined;
  const timer = setTimeout(
    () => late(new ConnectError("the operation timed out", Code.DeadlineExceeded)),
    Math.ceil(timeoutMs),
  );
  return () => clearTimeout(timer);
}
