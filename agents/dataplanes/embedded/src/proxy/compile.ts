/**
 * From the routes of one deployment to entries of the table, or a refusal that
 * names the field. Each deployment is compiled alone: what is wrong with one
 * never touches another.
 *
 *   filters.ts  one filter each     table.ts  takes the entries
 */
import type { HttpMatch, HttpRoute, PathMatch, ServedApiService, ValueMatch } from "@bowline/contract/deployments";
import { PathMatch_Type, ValueMatch_Type } from "@bowline/contract/deployments";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { type AttachedDocument, reservedPrefix } from "../document.ts";
import { compileBackend } from "./backends.ts";
import { compileFilters } from "./filters.ts";
import { normalisePath, readHost } from "./paths.ts";
import { compilePattern, type Pattern } from "./pattern.ts";
import { Refusal } from "./refusal.ts";
import type { Counters, ServedBackend, ServedDeployment, ServedRoute } from "./served.ts";
import type { Condition, Entry, PathCondition } from "./table.ts";

/** Each costs every request that reaches it time and each keeps some memory. */
const maxPatterns = 256;
/** Entries are hosts × matches; the largest one service can ask for is routes × 16 × 64. */
const maxEntries = 20_000;

/** One deployment at one generation, ready to be served. */
export interface Compiled {
  deployment: ServedDeployment;
  entries: readonly Entry[];
  backends: readonly ServedBackend[];
}

/** Throws a Refusal. */
export function compileRoutes(
  { deploymentId: id, generation, routes, secrets = {} }: AttachedDocument,
  counters: Counters,
): Compiled {
  const deployment: ServedDeployment = { id, generation, counters };
  const entries: Entry[] = [];
  const backends: ServedBackend[] = [];
  const patterns = { left: maxPatterns };
  unique(routes.apiServices, "api_services");
  for (const [i, service] of routes.apiServices.entries()) {
    const path = `api_services[${i}]`;
    const known = compileBackends(service, path, routes.allowPrivateBackends, secrets);
    backends.push(...known.values());
    unique(service.routes, `${path}.routes`);
    for (const [j, route] of service.routes.entries()) {
      const at = `${path}.routes[${j}]`;
      const served = compileRoute(service.name, route, known, at);
      entries.push(...compileMatches(deployment, route, served, patterns, at));
      if (entries.length > maxEntries) throw new Refusal(at, `more than ${maxEntries} hosts × matches in all`);
    }
  }
  return { deployment, entries, backends };
}

function compileBackends(
  service: ServedApiService,
  path: string,
  allowPrivate: boolean,
  secrets: Readonly<Record<string, string>>,
): Map<string, ServedBackend> {
  unique(service.backends, `${path}.backends`);
  return new Map(
    service.backends.map((backend, i) => [
      backend.name,
      compileBackend(backend, milliseconds(backend.connectTimeout), allowPrivate, secrets, `${path}.backends[${i}]`),
    ]),
  );
}

function compileRoute(
  service: string,
  route: HttpRoute,
  backends: ReadonlyMap<string, ServedBackend>,
  at: string,
): ServedRoute {
  const named = (name: string, path: string): ServedBackend => {
    const backend = backends.get(name);
    if (backend === undefined) throw new Refusal(path, `there is no backend "${name}" in the API service`);
    return backend;
  };
  const filters = compileFilters(route, named, at);
  if (filters.redirect === undefined && route.backends.length === 0) {
    throw new Refusal(`${at}.backends`, "a route that does not redirect needs a backend");
  }
  if (filters.redirect !== undefined && route.backends.length > 0) {
    throw new Refusal(`${at}.backends`, "a route that redirects has no backends");
  }
  return {
    name: `${service}/${route.name}`,
    ...filters,
    backends: route.backends.map((share, i) => ({
      backend: named(share.backend, `${at}.backends[${i}].backend`),
      weight: share.weight ?? 1,
      credit: 0,
    })),
    requestTimeoutMs: milliseconds(route.requestTimeout),
    backendTimeoutMs: milliseconds(route.backendRequestTimeout),
  };
}

function compileMatches(
  deployment: ServedDeployment,
  route: HttpRoute,
  served: ServedRoute,
  patterns: { left: number },
  at: string,
): Entry[] {
  const pattern = (source: string, path: string): Pattern => {
    if (patterns.left-- <= 0) throw new Refusal(path, `more than ${maxPatterns} regular expressions in all`);
    try {
      return compilePattern(source);
    } catch (error) {
      throw new Refusal(path, (error as Error).message);
    }
  };
  const hosts = route.hostnames.length === 0 ? [""] : route.hostnames.map((host) => host.toLowerCase());
  const wrong = hosts.findIndex((host) => host !== "" && readHost(host.replace(/^\*\./, "")) === undefined);
  if (wrong >= 0) throw new Refusal(`${at}.hostnames[${wrong}]`, "neither a host's name nor *. and one");
  const matches: readonly (HttpMatch | undefined)[] = route.matches.length === 0 ? [undefined] : route.matches;
  return matches.flatMap((match, place) => {
    const path = `${at}.matches[${place}]`;
    const conditions = {
      path: compilePath(match?.path, pattern, `${path}.path`),
      method: match?.method ?? "",
      headers: compileValues(match?.headers ?? [], pattern, `${path}.headers`, (name) => name.toLowerCase()),
      query: compileValues(match?.queryParams ?? [], pattern, `${path}.query_params`, (name) => name),
    };
    return hosts.map((host): Entry => ({ host, ...conditions, deployment, route: served, place }));
  });
}

function compilePath(
  path: PathMatch | undefined,
  pattern: (source: string, path: string) => Pattern,
  at: string,
): PathCondition {
  if (path === undefined) return { kind: "prefix", prefix: "" };
  const { type, value } = path;
  if (type === PathMatch_Type.REGEX) return { kind: "regex", matches: pattern(value, `${at}.value`) };
  const normal = normalisePath(value);
  if (normal === undefined || /\/\/|%2f|\?|\/(?:\.|%2e){1,2}(?:\/|$)/i.test(value)) {
    throw new Refusal(
      `${at}.value`,
      "not a path: it starts with / and has no //, no . or .. elements, no query, no %2F",
    );
  }
  if (normal.startsWith(reservedPrefix)) throw new Refusal(`${at}.value`, `${reservedPrefix} is the data plane's own`);
  if (type === PathMatch_Type.EXACT) return { kind: "exact", path: normal };
  return { kind: "prefix", prefix: normal.endsWith("/") ? normal.slice(0, -1) : normal };
}

/** Of several conditions on one name the first counts, as the Gateway API has it. */
function compileValues(
  values: readonly ValueMatch[],
  pattern: (source: string, path: string) => Pattern,
  at: string,
  key: (name: string) => string,
): Condition[] {
  const conditions = new Map<string, Condition>();
  for (const [i, { type, name, value }] of values.entries()) {
    if (name === "") throw new Refusal(`${at}[${i}].name`, "empty");
    if (conditions.has(key(name))) continue;
    const matches =
      type === ValueMatch_Type.REGEX ? pattern(value, `${at}[${i}].value`) : (text: string): boolean => text === value;
    conditions.set(key(name), { name: key(name), matches });
  }
  return [...conditions.values()];
}

function unique(named: readonly { name: string }[], at: string): void {
  const seen = new Set<string>();
  for (const [i, { name }] of named.entries()) {
    if (name === "") throw new Refusal(`${at}[${i}].name`, "empty");
    if (seen.has(name)) throw new Refusal(`${at}[${i}].name`, `"${name}" is there twice`);
    seen.add(name);
  }
}

function milliseconds(duration: Duration | undefined): number | undefined {
  if (duration === undefined) return undefined;
  return Math.max(1, Number(duration.seconds) * 1000 + duration.nanos / 1e6);
}
