/**
 * How much one product may ask of a data plane. Each bound is what the smallest gateway class serves; every class
 * serves it, so that a product does not fit one gateway and fail at another.
 */
import { type HttpRoute, PathMatch_Type, ValueMatch_Type } from "@bowline/contract/deployments";
import type { ProductManifest } from "@bowline/contract/products";
import type { Violation } from "@bowline/kernel";

/** Hosts × matches, over all routes: each is an entry in a data plane's table. */
const maxEntries = 20_000;
/** Regular expressions over all routes: each may be tried on every request. */
const maxPatterns = 256;
/** Their characters in all. Compiling the worst 4096 takes 60 ms, measured; so a manifest stays below a second. */
const maxPatternCharacters = 65_536;

/** What is too much about a whole product; empty: nothing. */
export function sizeViolations(manifest: ProductManifest): Violation[] {
  const routes = manifest.apiServices.flatMap((service) => service.routes);
  return [...patternViolations(routes, "api_services"), ...entryViolations(routes)];
}

function entryViolations(routes: readonly HttpRoute[]): Violation[] {
  const entries = routes.reduce(
    (sum, { hostnames, matches }) => sum + Math.max(1, hostnames.length) * Math.max(1, matches.length),
    0,
  );
  if (entries <= maxEntries) return [];
  return [
    { field: "api_services", description: `Hosts × matches are ${entries} in all; at most ${maxEntries} are served.` },
  ];
}

/** Too many regular expressions, or too long ones. To be looked at before any of them is compiled. */
export function patternViolations(routes: readonly HttpRoute[], field: string): Violation[] {
  let patterns = 0;
  let characters = 0;
  const add = (pattern: string): void => {
    patterns += 1;
    characters += pattern.length;
  };
  for (const { matches } of routes)
    for (const match of matches) {
      if (match.path?.type === PathMatch_Type.REGEX) add(match.path.value);
      for (const { type, value } of [...match.headers, ...match.queryParams])
        if (type === ValueMatch_Type.REGEX) add(value);
    }
  if (patterns > maxPatterns)
    return [{ field, description: `There are ${patterns} regular expressions; at most ${maxPatterns} are served.` }];
  if (characters > maxPatternCharacters)
    return [
      { field, description: `The regular expressions have ${characters} characters; at most ${maxPatternCharacters}.` },
    ];
  return [];
}
