/**
 * The filters of one route, checked. Their order among each other never
 * matters: the header changes, the rewrite and the redirect touch different
 * parts of a request, and of each kind there is at most one (mirrors: several).
 */
import type {
  Cors,
  HeaderModifier,
  HttpFilter,
  HttpRoute,
  PathModifier,
  Redirect,
} from "@bowline/contract/deployments";
import { PathMatch_Type } from "@bowline/contract/deployments";
import { readOrigins } from "./cors.ts";
import { normalisePath, readHost } from "./paths.ts";
import { Refusal } from "./refusal.ts";
import type { HeaderChanges, PathChange, ServedBackend, ServedCors, ServedRedirect, ServedRoute } from "./served.ts";

type Filters = Pick<ServedRoute, "requestHeaders" | "responseHeaders" | "redirect" | "rewrite" | "mirrors" | "cors">;

type Named = (name: string, path: string) => ServedBackend;

/** Throws a Refusal. */
export function compileFilters(route: HttpRoute, named: Named, at: string): Filters {
  const seen = new Set<string>();
  const filters: Filters & { mirrors: { backend: ServedBackend; percent: number }[] } = {
    requestHeaders: undefined,
    responseHeaders: undefined,
    redirect: undefined,
    rewrite: undefined,
    mirrors: [],
    cors: undefined,
  };
  for (const [i, filter] of route.filters.entries()) {
    const path = `${at}.filters[${i}]`;
    const { kind } = filter;
    if (kind.case === undefined) throw new Refusal(path, "empty, or of a kind that this data plane does not know");
    if (kind.case !== "mirror" && seen.has(kind.case)) throw new Refusal(path, "there is another one of this kind");
    seen.add(kind.case);
    compileFilter(kind, filters, route, named, path);
  }
  if (filters.redirect !== undefined && filters.rewrite !== undefined) {
    throw new Refusal(`${at}.filters`, "a route either redirects or rewrites");
  }
  return filters;
}

function compileFilter(
  kind: HttpFilter["kind"],
  filters: Filters & { mirrors: { backend: ServedBackend; percent: number }[] },
  route: HttpRoute,
  named: Named,
  at: string,
): void {
  switch (kind.case) {
    case "requestHeaderModifier":
      filters.requestHeaders = compileHeaders(kind.value, `${at}.request_header_modifier`);
      break;
    case "responseHeaderModifier":
      filters.responseHeaders = compileHeaders(kind.value, `${at}.response_header_modifier`);
      break;
    case "redirect":
      filters.redirect = compileRedirect(kind.value, route, `${at}.redirect`);
      break;
    case "urlRewrite":
      filters.rewrite = {
        hostname: hostname(kind.value.hostname, `${at}.url_rewrite.hostname`),
        path: compilePathChange(kind.value.path, route, `${at}.url_rewrite.path`),
      };
      break;
    case "mirror":
      filters.mirrors.push({
        backend: named(kind.value.backend, `${at}.mirror.backend`),
        percent: kind.value.percent ?? 100,
      });
      break;
    case "cors":
      filters.cors = compileCors(kind.value, `${at}.cors`);
      break;
    case undefined:
      break;
    default:
      kind satisfies never;
  }
}

/** What frames messages and connections is ours; a tenant's change of it could smuggle requests. */
const untouchable = new Set([
  "host",
  "connection",
  "content-length",
  "transfer-encoding",
  "upgrade",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "expect",
  "via",
]);

const token = /^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$/;

function compileHeaders(modifier: HeaderModifier, at: string): HeaderChanges {
  const key = (name: string, path: string): string => {
    if (!token.test(name)) throw new Refusal(path, "not a header's name");
    const lower = name.toLowerCase();
    if (untouchable.has(lower)) throw new Refusal(path, `${lower} cannot be changed`);
    return lower;
  };
  const list = (headers: HeaderModifier["set"], path: string): HeaderChanges["set"] =>
    headers.map(({ name, value }, i) => {
      if (/[^\t\x20-\x7e\x80-\xff]/.test(value)) throw new Refusal(`${path}[${i}].value`, "not a header's value");
      return { key: key(name, `${path}[${i}].name`), name, value };
    });
  return {
    set: list(modifier.set, `${at}.set`),
    add: list(modifier.add, `${at}.add`),
    remove: modifier.remove.map((name, i) => key(name, `${at}.remove[${i}]`)),
  };
}

function compileRedirect(redirect: Redirect, route: HttpRoute, at: string): ServedRedirect {
  const { scheme, port, statusCode } = redirect;
  if (!["", "http", "https"].includes(scheme)) throw new Refusal(`${at}.scheme`, "neither http nor https");
  if (![0, 301, 302, 303, 307, 308].includes(statusCode)) throw new Refusal(`${at}.status_code`, "not a redirect");
  if (port > 65535) throw new Refusal(`${at}.port`, "not a port");
  return {
    scheme,
    hostname: hostname(redirect.hostname, `${at}.hostname`),
    port,
    path: compilePathChange(redirect.path, route, `${at}.path`),
    status: statusCode || 302,
  };
}

function compilePathChange(path: PathModifier | undefined, route: HttpRoute, at: string): PathChange | undefined {
  if (path === undefined || path.kind.case === undefined) return undefined;
  const { case: kind, value } = path.kind;
  if (kind === "replaceFullPath") {
    const full = normalisePath(value);
    if (full === undefined || value.includes("?")) throw new Refusal(`${at}.replace_full_path`, "not a path");
    return { kind: "full", path: full };
  }
  const odd = route.matches.some((match) => {
    const type = match.path?.type ?? PathMatch_Type.PREFIX;
    return type === PathMatch_Type.EXACT || type === PathMatch_Type.REGEX;
  });
  if (odd) throw new Refusal(`${at}.replace_prefix_match`, "needs a PREFIX match in every match of the route");
  const replace = value === "" ? "" : normalisePath(value);
  if (replace === undefined || value.includes("?")) throw new Refusal(`${at}.replace_prefix_match`, "not a path");
  return { kind: "prefix", replace };
}

function compileCors(cors: Cors, at: string): ServedCors {
  const read = readOrigins(cors.allowOrigins);
  if ("wrong" in read) throw new Refusal(`${at}.allow_origins[${read.wrong}]`, "not an origin");
  for (const field of ["allowMethods", "allowHeaders", "exposeHeaders"] as const) {
    const wrong = cors[field].findIndex((name) => !token.test(name));
    const snake = field.replace(/[A-Z]/, (letter) => `_${letter.toLowerCase()}`);
    if (wrong >= 0) throw new Refusal(`${at}.${snake}[${wrong}]`, "not a name");
  }
  return {
    origins: read.origins,
    methods: cors.allowMethods.length === 0 ? ["GET", "HEAD", "POST"] : cors.allowMethods,
    headers: cors.allowHeaders,
    expose: cors.exposeHeaders,
    credentials: cors.allowCredentials,
    maxAgeSeconds: cors.maxAge === undefined ? 5 : Number(cors.maxAge.seconds),
  };
}

function hostname(value: string, at: string): string {
  if (value !== "" && readHost(value) !== value.toLowerCase()) throw new Refusal(at, "not a host's name");
  return value;
}
