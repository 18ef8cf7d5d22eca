/** What is to happen to a request, decided from its head alone: answered here, or sent to a backend. */
import type { IncomingMessage } from "node:http";
import { preflightHeaders, preflightMethod, responseHeaders } from "./cors.ts";
import type { AnswerReason } from "./answers.ts";
import type { Attached } from "./attached.ts";
import { goesInCircles } from "./headers.ts";
import { readHost, readTarget, replacePrefix } from "./paths.ts";
import { nextBackend, type PathChange, type ServedBackend } from "./served.ts";
import type { Entry } from "./table.ts";
import { probePath, reservedPrefix } from "../document.ts";

export type Plan =
  | { kind: "answer"; reason: AnswerReason; entry?: Entry; headers?: string[] }
  | { kind: "probe"; deploymentId: string }
  | { kind: "empty"; status: number; headers: string[]; entry: Entry }
  | Forwarding;

export interface Forwarding {
  kind: "forward";
  entry: Entry;
  backend: ServedBackend;
  /** Path and query without the backend's own path. */
  target: string;
  /** Host header for the backend, and as it came. */
  host: string;
  originalHost: string;
  /** Headers that the response gets because of CORS; undefined: no CORS filter. */
  cors: string[] | undefined;
}

/** `port` is the listener's. */
export function planFor(req: IncomingMessage, attached: Attached, port: number): Plan {
  const target = readTarget(req.url ?? "");
  if (target === undefined) return { kind: "answer", reason: "BAD_TARGET" };
  const originalHost = target.authority ?? req.headers.host ?? "";
  const { path, search } = target;
  if (path.startsWith(reservedPrefix)) {
    const prefix = probePath("");
    const probed = path.startsWith(prefix) && (req.method === "GET" || req.method === "HEAD");
    return probed
      ? { kind: "probe", deploymentId: path.slice(prefix.length) }
      : { kind: "answer", reason: "NOT_SERVED" };
  }
  const host = readHost(originalHost);
  if (host === undefined || hasTwoHosts(req.rawHeaders)) return { kind: "answer", reason: "BAD_HOST" };
  if (req.method === "TRACE" || req.method === "CONNECT") return { kind: "answer", reason: "METHOD_REFUSED" };
  if (goesInCircles(req)) return { kind: "answer", reason: "LOOP_DETECTED" };

  const { headers } = req;
  const method = req.method!;
  const asked = { host, path, search, method, headers };
  const preflight = preflightMethod(method, headers);
  // A preflight is answered by the route that the request to come would take.
  const promised = preflight === undefined ? undefined : attached.find({ ...asked, method: preflight });
  if (promised?.route.cors !== undefined) {
    return { kind: "empty", status: 204, headers: preflightHeaders(promised.route.cors, headers), entry: promised };
  }
  const entry = attached.find(asked);
  if (entry === undefined) return { kind: "answer", reason: "ROUTE_NOT_FOUND" };
  const { route } = entry;
  if (preflight !== undefined && route.cors !== undefined) {
    return { kind: "empty", status: 204, headers: preflightHeaders(route.cors, headers), entry };
  }
  const cors = route.cors === undefined ? undefined : responseHeaders(route.cors, headers);
  if (route.redirect !== undefined) {
    const location = redirectTo(entry, host, path, search, port);
    return {
      kind: "empty",
      status: route.redirect.status,
      headers: ["Location", location, "Content-Length", "0", ...(cors ?? [])],
      entry,
    };
  }
  const backend = nextBackend(route.backends);
  if (backend === undefined) return { kind: "answer", reason: "NO_BACKEND", entry, headers: cors };
  return {
    kind: "forward",
    entry,
    backend,
    target: changed(route.rewrite?.path, entry, path) + search,
    host: route.rewrite?.hostname || originalHost,
    originalHost,
    cors,
  };
}

/** Node joins or drops repeated headers; two hosts could be read differently further on. */
function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  let hosts = 0;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i]!.length === 4 && rawHeaders[i]!.toLowerCase() === "host") hosts += 1;
  }
  return hosts > 1;
}

function changed(change: PathChange | undefined, entry: Entry, path: string): string {
  if (change === undefined) return path;
  if (change.kind === "full") return change.path;
  return replacePrefix(path, entry.path.kind === "prefix" ? entry.path.prefix : "", change.replace);
}

/** The Location of a redirect, by the Gateway API's rules for what is left out. */
function redirectTo(entry: Entry, host: string, path: string, search: string, listenerPort: number): string {
  const redirect = entry.route.redirect!;
  const scheme = redirect.scheme || "http";
  const wellKnown = scheme === "https" ? 443 : 80;
  const port = redirect.port || (redirect.scheme === "" ? listenerPort : wellKnown);
  const authority = (redirect.hostname || host) + (port === wellKnown ? "" : `:${port}`);
  return `${scheme}://${authority}${changed(redirect.path, entry, path)}${search}`;
}
