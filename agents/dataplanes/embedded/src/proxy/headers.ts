/**
 * Headers on their way through. They stay lists of name and value, as they
 * came: order, case and repetition are kept.
 *
 * H1: what is between two neighbours (RFC 9110, 7.6.1) goes no further.
 * H2: what a backend is told about the client (X-Forwarded-*, Via) is written
 *     here. Only X-Forwarded-For and Via keep what a client sent, before ours.
 */
import type { IncomingMessage } from "node:http";
import type { HeaderChanges } from "./served.ts";

const hopByHop: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "proxy-authenticate",
  "proxy-authorization",
  "te",
  "transfer-encoding",
  "upgrade",
]);

/** Written here (H2), or of no further use. */
const replaced: ReadonlySet<string> = new Set([
  "host",
  "via",
  "forwarded",
  "x-forwarded-for",
  "x-forwarded-proto",
  "x-forwarded-host",
  "x-forwarded-port",
]);

/** A Connection header does not take these with it: they are no options of a connection. */
const endToEnd: ReadonlySet<string> = new Set(["content-length", "host", "content-type", "authorization", "cookie"]);

const pseudonym = "bowline";

/** More than any chain of gateways; a request that passed this proxy so often goes round in a circle. */
const maxPasses = 8;

export function goesInCircles(req: IncomingMessage): boolean {
  const via = req.headers.via;
  return (
    via !== undefined && via.split(",").filter((hop) => hop.trim().split(/\s+/)[1] === pseudonym).length >= maxPasses
  );
}

function connectionOptions(connection: string | undefined): ReadonlySet<string> {
  if (connection === undefined) return hopByHop;
  const named = connection.split(",").map((name) => name.trim().toLowerCase());
  return new Set([...hopByHop, ...named.filter((name) => !endToEnd.has(name))]);
}

export interface Onward {
  /** Host header for the backend. */
  host: string;
  /** As the client sent it. */
  originalHost: string;
  port: number;
  changes: HeaderChanges | undefined;
  /** Set for an upgrade that is passed on. */
  upgrade: string | undefined;
}

/** The header list of the request that goes to a backend. */
export function onwardHeaders(req: IncomingMessage, onward: Onward): string[] {
  const dropped = connectionOptions(req.headers.connection);
  let out = ["Host", onward.host];
  const { rawHeaders } = req;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase();
    if (!dropped.has(name) && !replaced.has(name)) out.push(rawHeaders[i]!, rawHeaders[i + 1]!);
  }
  const client = req.socket.remoteAddress?.replace(/^::ffff:/, "") ?? "unknown";
  const before = req.headers["x-forwarded-for"];
  const forwardedFor =
    before === undefined ? client : `${Array.isArray(before) ? before.join(", ") : before}, ${client}`;
  out.push("X-Forwarded-For", forwardedFor, "X-Forwarded-Proto", "http", "X-Forwarded-Host", onward.originalHost);
  out.push("X-Forwarded-Port", String(onward.port));
  const via = `${req.httpVersion} ${pseudonym}`;
  out.push("Via", req.headers.via === undefined ? via : `${req.headers.via}, ${via}`);
  if (onward.changes !== undefined) out = applyChanges(out, onward.changes);
  if (
    String(req.headers.te ?? "")
      .toLowerCase()
      .includes("trailers")
  )
    out.push("TE", "trailers");
  if (onward.upgrade !== undefined) out.push("Connection", "Upgrade", "Upgrade", onward.upgrade);
  if (req.headers["transfer-encoding"] !== undefined) out.push("Transfer-Encoding", "chunked");
  else if (req.headers["content-length"] === undefined && mayHaveBody.has(req.method!)) out.push("Content-Length", "0");
  return out;
}

/** The same list as one backend gets it: with its secrets in place of whatever stood under their names. */
export function forBackend(
  headers: readonly string[],
  secretHeaders: readonly { key: string; name: string; value: string }[],
): readonly string[] {
  if (secretHeaders.length === 0) return headers;
  return applyChanges(headers, { set: secretHeaders, add: [], remove: [] });
}

/** Without a length node:http would announce a chunked body for these. */
const mayHaveBody: ReadonlySet<string> = new Set(["POST", "PUT", "PATCH"]);

/** Whether the request announced a body. */
export function hasBody(req: IncomingMessage): boolean {
  const length = req.headers["content-length"];
  return req.headers["transfer-encoding"] !== undefined || (length !== undefined && Number(length) !== 0);
}

/** The header list of the response that goes back. `instead` replaces what the backend said under the same names. */
export function returnHeaders(
  response: IncomingMessage,
  changes: HeaderChanges | undefined,
  replace: ReadonlySet<string> | undefined,
  instead: readonly string[],
): string[] {
  const dropped = connectionOptions(response.headers.connection);
  let out: string[] = [];
  const { rawHeaders } = response;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase();
    if (!dropped.has(name) && replace?.has(name) !== true) out.push(rawHeaders[i]!, rawHeaders[i + 1]!);
  }
  out.push("Via", `${response.httpVersion} ${pseudonym}`, ...instead);
  if (changes !== undefined) out = applyChanges(out, changes);
  return out;
}

/** First set, then add, then remove. */
function applyChanges(headers: readonly string[], changes: HeaderChanges): string[] {
  const gone = new Set([...changes.set.map(({ key }) => key), ...changes.remove]);
  const removed = new Set(changes.remove);
  const out: string[] = [];
  for (let i = 0; i < headers.length; i += 2) {
    if (!gone.has(headers[i]!.toLowerCase())) out.push(headers[i]!, headers[i + 1]!);
  }
  for (const { key, name, value } of [...changes.set, ...changes.add]) {
    if (!removed.has(key)) out.push(name, value);
  }
  return out;
}

/** Trailers as they came, without what may not be one. */
export function trailerList(message: IncomingMessage): [string, string][] {
  const out: [string, string][] = [];
  for (let i = 0; i < message.rawTrailers.length; i += 2) {
    const name = message.rawTrailers[i]!;
    const lower = name.toLowerCase();
    if (!hopByHop.has(lower) && !replaced.has(lower) && lower !== "content-length") {
      out.push([name, message.rawTrailers[i + 1]!]);
    }
  }
  return out;
}
