/** Where two products at one gateway would answer to the same requests. */
import {
  type HttpMatch,
  type HttpRoute,
  PathMatch_Type,
  type ValueMatch,
  ValueMatch_Type,
} from "@bowline/contract/deployments";
import type { ProductManifest } from "@bowline/contract/products";
import { normalPath } from "./paths.ts";

/** One claim that both make. `a` and `b` are paths as in `api_services/hello/routes/time`; `what` is for people. */
export interface RouteConflict {
  a: string;
  b: string;
  what: string;
}

/**
 * The matches that both manifests claim: the same host, path, method, headers and query parameters. Matches that
 * merely overlap are none: the more specific one wins. The order of headers and parameters makes no difference.
 */
export function routeConflicts(a: ProductManifest, b: ProductManifest): RouteConflict[] {
  const claimed = new Map<string, string>();
  for (const claim of claimsOf(a)) if (!claimed.has(claim.key)) claimed.set(claim.key, claim.path);
  const found = new Map<string, RouteConflict>();
  for (const { key, path, what } of claimsOf(b)) {
    const theirs = claimed.get(key);
    if (theirs !== undefined && !found.has(key)) found.set(key, { a: theirs, b: path, what });
  }
  return [...found.values()];
}

/** Whether `after` claims a match that `before` does not. */
export function claimsMore(before: ProductManifest, after: ProductManifest): boolean {
  const claimed = new Set([...claimsOf(before)].map((claim) => claim.key));
  return [...claimsOf(after)].some((claim) => !claimed.has(claim.key));
}

function* claimsOf(manifest: ProductManifest): Generator<{ key: string; path: string; what: string }> {
  for (const service of manifest.apiServices)
    for (const route of service.routes) {
      const path = `api_services/${service.name}/routes/${route.name}`;
      for (const host of hostsOf(route))
        for (const match of matchesOf(route)) yield { key: keyOf(host, match), path, what: wordsOf(host, match) };
    }
}

function hostsOf(route: HttpRoute): readonly string[] {
  return route.hostnames.length === 0 ? [""] : route.hostnames.map((host) => host.toLowerCase());
}

type Match = Pick<HttpMatch, "path" | "method" | "headers" | "queryParams">;

function matchesOf(route: HttpRoute): readonly Match[] {
  return route.matches.length === 0 ? [{ path: undefined, method: "", headers: [], queryParams: [] }] : route.matches;
}

function pathOf(match: Match): { type: "EXACT" | "PREFIX" | "REGEX"; value: string } {
  const value = match.path?.value ?? "/";
  switch (match.path?.type) {
    case PathMatch_Type.EXACT:
      return { type: "EXACT", value: normalPath(value) };
    case PathMatch_Type.REGEX:
      return { type: "REGEX", value };
    default:
      // `/foo/` and `/foo` are the same prefix.
      return { type: "PREFIX", value: value.length > 1 ? normalPath(value).replace(/\/$/, "") : value };
  }
}

function keyOf(host: string, match: Match): string {
  const { type, value } = pathOf(match);
  const values = (list: readonly ValueMatch[], key: (name: string) => string) =>
    list.map((item) => JSON.stringify([key(item.name), item.type === ValueMatch_Type.REGEX, item.value])).sort();
  return JSON.stringify([
    host,
    type,
    value,
    match.method,
    values(match.headers, (name) => name.toLowerCase()),
    values(match.queryParams, (name) => name),
  ]);
}

function wordsOf(host: string, match: Match): string {
  const { type, value } = pathOf(match);
  const conditions = [
    ...match.headers.map((header) => `header ${header.name}`),
    ...match.queryParams.map((parameter) => `parameter ${parameter.name}`),
  ];
  const base = `${match.method === "" ? "every method" : match.method} ${type} ${value} at ${host === "" ? "every host" : host}`;
  return conditions.length === 0 ? base : `${base} with ${conditions.join(", ")}`;
}
