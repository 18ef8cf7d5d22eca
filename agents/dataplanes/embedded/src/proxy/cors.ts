/**
 * Cross-origin resource sharing, as the Fetch standard defines it and the
 * Gateway API's CORS filter configures it.
 *
 * - An origin that is not allowed gets no CORS header; a preflight of its ends
 *   here all the same, and an actual request is forwarded.
 * - With credentials no answer says `*`: what was asked for is echoed.
 */
import type { IncomingHttpHeaders } from "node:http";
import type { Origins, ServedCors } from "./served.ts";

/** Undefined: one of them is neither `*`, nor an origin, nor one with a leading wildcard label. `index` says which. */
export function readOrigins(origins: readonly string[]): { origins: Origins } | { wrong: number } {
  const exact = new Set<string>();
  const wildcards: { before: string; after: string }[] = [];
  let all = false;
  for (const [index, origin] of origins.entries()) {
    const parts = /^([a-z][a-z0-9+.-]*:\/\/)(\*\.)?([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?$/i.exec(origin);
    if (origin === "*") all = true;
    else if (origin === "null") exact.add(origin);
    else if (parts === null) return { wrong: index };
    else if (parts[2] === undefined) exact.add(origin.toLowerCase());
    else wildcards.push({ before: parts[1]!.toLowerCase(), after: `.${parts[3]!}${parts[4] ?? ""}`.toLowerCase() });
  }
  return { origins: { all, exact, wildcards } };
}

function isAllowed(origins: Origins, origin: string): boolean {
  const lower = origin.toLowerCase();
  if (origins.all || origins.exact.has(lower)) return true;
  return origins.wildcards.some(
    ({ before, after }) =>
      lower.length > before.length + after.length &&
      lower.startsWith(before) &&
      lower.endsWith(after) &&
      /^[a-z0-9-]+(?:\.[a-z0-9-]+)*$/.test(lower.slice(before.length, lower.length - after.length)),
  );
}

/** The method that a preflight asks for; undefined: the request is none. */
export function preflightMethod(method: string, headers: IncomingHttpHeaders): string | undefined {
  if (method !== "OPTIONS" || headers.origin === undefined) return undefined;
  const asked = headers["access-control-request-method"];
  return asked === undefined || asked === "" ? undefined : asked;
}

/** Headers of the 204 that answers a preflight. */
export function preflightHeaders(cors: ServedCors, headers: IncomingHttpHeaders): string[] {
  const out = ["Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"];
  const origin = allowOrigin(cors, headers.origin);
  if (origin === undefined) return out;
  out.push("Access-Control-Allow-Origin", origin);
  if (cors.credentials) out.push("Access-Control-Allow-Credentials", "true");
  const methods = echoed(cors.methods, cors.credentials, headers["access-control-request-method"]);
  if (methods !== "") out.push("Access-Control-Allow-Methods", methods);
  const allowed = echoed(cors.headers, cors.credentials, headers["access-control-request-headers"]);
  if (allowed !== "") out.push("Access-Control-Allow-Headers", allowed);
  out.push("Access-Control-Max-Age", String(cors.maxAgeSeconds));
  return out;
}

/** Headers that a response to an actual request gets; empty where the request is of one origin. */
export function responseHeaders(cors: ServedCors, headers: IncomingHttpHeaders): string[] {
  const origin = allowOrigin(cors, headers.origin);
  const out = origin === "*" ? [] : ["Vary", "Origin"];
  if (origin === undefined) return out;
  out.push("Access-Control-Allow-Origin", origin);
  if (cors.credentials) out.push("Access-Control-Allow-Credentials", "true");
  if (cors.expose.length > 0 && !(cors.credentials && cors.expose.includes("*"))) {
    out.push("Access-Control-Expose-Headers", cors.expose.join(", "));
  }
  return out;
}

/** Headers of a backend that these replace. */
export const corsHeaders: ReadonlySet<string> = new Set([
  "access-control-allow-origin",
  "access-control-allow-credentials",
  "access-control-expose-headers",
]);

function allowOrigin(cors: ServedCors, origin: string | undefined): string | undefined {
  if (origin === undefined || !isAllowed(cors.origins, origin)) return undefined;
  return cors.origins.all && !cors.credentials ? "*" : origin;
}

function echoed(allowed: readonly string[], credentials: boolean, asked: string | undefined): string {
  if (!allowed.includes("*")) return allowed.join(", ");
  return credentials ? (asked ?? "") : "*";
}
