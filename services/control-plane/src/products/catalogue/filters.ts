/** What a route's filters must be, beyond the rules of the proto. */
import {
  type Cors,
  type HeaderModifier,
  type HttpFilter,
  type HttpRoute,
  type PathModifier,
  PathMatch_Type,
} from "@bowline/contract/deployments";
import type { Violation } from "@bowline/kernel";
import { pathProblem } from "./paths.ts";

/** Adds what is wrong with a route's filters to `found`. `at` is the route's own path. */
export function checkFilters(route: HttpRoute, backends: ReadonlySet<string>, at: string, found: Violation[]): void {
  const seen = new Set<string>();
  for (const [f, { kind }] of route.filters.entries()) {
    const field = `${at}.filters[${f}]`;
    if (kind.case === undefined) continue; // The proto's own rule refuses it.
    if (seen.has(kind.case))
      found.push({ field, description: `There is another ${snake(kind.case)}; one of each kind is allowed.` });
    seen.add(kind.case);
    checkFilter(kind, route, backends, `${field}.${snake(kind.case)}`, found);
  }
  if (seen.has("redirect") && seen.has("urlRewrite"))
    found.push({ field: `${at}.filters`, description: "A route either redirects or rewrites (url_rewrite)." });
}

function checkFilter(
  kind: HttpFilter["kind"],
  route: HttpRoute,
  backends: ReadonlySet<string>,
  at: string,
  found: Violation[],
): void {
  switch (kind.case) {
    case "requestHeaderModifier":
    case "responseHeaderModifier":
      return checkHeaders(kind.value, at, found);
    case "redirect":
    case "urlRewrite":
      checkHostname(kind.value.hostname, `${at}.hostname`, found);
      return checkPathModifier(kind.value.path, route, `${at}.path`, found);
    case "mirror":
      if (!backends.has(kind.value.backend))
        found.push({
          field: `${at}.backend`,
          description: `The API service has no backend named ${JSON.stringify(kind.value.backend)}.`,
        });
      return;
    case "cors":
      return checkCors(kind.value, at, found);
    case undefined:
      return;
    default:
      kind satisfies never;
  }
}

const hostname = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;

function checkHostname(value: string, field: string, found: Violation[]): void {
  if (value !== "" && !hostname.test(value))
    found.push({ field, description: "Expected a host's name in lower case, without a port or wildcard." });
}

function checkPathModifier(path: PathModifier | undefined, route: HttpRoute, at: string, found: Violation[]): void {
  if (path === undefined || path.kind.case === undefined) return;
  const { case: kind, value } = path.kind;
  const field = `${at}.${snake(kind)}`;
  if (kind === "replacePrefixMatch") {
    const others = route.matches.some(
      ({ path: match }) => match?.type === PathMatch_Type.EXACT || match?.type === PathMatch_Type.REGEX,
    );
    if (others)
      found.push({ field, description: "It replaces a matched prefix: every match of the route must be a PREFIX." });
    if (value === "") return;
  }
  const wrong = pathProblem(value);
  if (wrong !== undefined) found.push({ field, description: `The path ${wrong}.` });
}

const token = /^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$/;

/** What frames messages and connections belongs to the data plane; changed by a tenant it could smuggle requests. */
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

/** HTTP carries bytes; what is beyond Latin-1 has no one encoding there. */
const headerValue = /^[\t\x20-\x7e\x80-\xff]*$/;

function checkHeaders(modifier: HeaderModifier, at: string, found: Violation[]): void {
  const lists = {
    set: modifier.set.map((header) => header.name),
    add: modifier.add.map((header) => header.name),
    remove: modifier.remove,
  };
  for (const [list, names] of Object.entries(lists)) {
    const seen = new Set<string>();
    for (const [i, name] of names.entries()) {
      const field = list === "remove" ? `${at}.remove[${i}]` : `${at}.${list}[${i}].name`;
      const key = name.toLowerCase();
      if (!token.test(name)) found.push({ field, description: "Expected a header's name." });
      else if (untouchable.has(key)) found.push({ field, description: `A route must not change ${key}.` });
      else if (seen.has(key) && list !== "add")
        found.push({ field, description: `${name} is in this list more than once.` });
      seen.add(key);
    }
  }
  for (const list of ["set", "add"] as const)
    for (const [i, { value }] of modifier[list].entries())
      if (!headerValue.test(value))
        found.push({ field: `${at}.${list}[${i}].value`, description: "Expected Latin-1 without control characters." });
}

/** `https://name[:port]`, or with one leading wildcard label. */
const origin = /^https?:\/\/(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(:\d{1,5})?$/;
const ipv6Origin = /^https?:\/\/\[[0-9a-f:.]+\](:\d{1,5})?$/;

function checkCors(cors: Cors, at: string, found: Violation[]): void {
  for (const [i, value] of cors.allowOrigins.entries()) {
    const field = `${at}.allow_origins[${i}]`;
    if (value === "*") {
      if (cors.allowOrigins.length > 1) found.push({ field, description: "`*` already allows all; it stands alone." });
      // The origin is echoed, so this would let every page on the web act as the person who looks at it.
      if (cors.allowCredentials)
        found.push({ field, description: "With allow_credentials the origins must be named; `*` is not allowed." });
    } else if (!origin.test(value) && !(ipv6Origin.test(value) && URL.canParse(value)))
      found.push({ field, description: "Expected `*`, `https://name[:port]` or `https://*.name`, in lower case." });
    else if (Number(/:(\d+)$/.exec(value)?.[1] ?? 1) > 65535 || /:0+$/.test(value))
      found.push({ field, description: "The port must be from 1 to 65535." });
  }
  const lists = {
    allow_methods: cors.allowMethods,
    allow_headers: cors.allowHeaders,
    expose_headers: cors.exposeHeaders,
  };
  for (const [list, names] of Object.entries(lists))
    for (const [i, name] of names.entries()) {
      const field = `${at}.${list}[${i}]`;
      if (!token.test(name)) found.push({ field, description: "Expected a name or `*`." });
      else if (name === "*" && names.length > 1)
        found.push({ field, description: "`*` already names all; it stands alone." });
      // Methods are case sensitive: `get` would never match.
      else if (list === "allow_methods" && name !== name.toUpperCase())
        found.push({ field, description: `Methods are upper case: ${name.toUpperCase()}.` });
    }
}

/** Field names as proto files spell them. */
function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
