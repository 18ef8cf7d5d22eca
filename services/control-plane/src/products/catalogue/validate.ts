/**
 * What a manifest must be beyond the rules of the proto (those say shapes and limits of single fields). The same
 * checks run when a route or backend is created or changed alone.
 *
 *   validate.ts  routes, matches, names      filters.ts       what a route changes
 *   patterns.ts  regular expressions         backend-urls.ts  where backends may be
 *   paths.ts     literal paths               sizes.ts         how much in all
 *
 * V1: all that is wrong is told at once, each with the field's path as the request spells it.
 */
import {
  type Backend,
  type HttpMatch,
  type HttpRoute,
  type PathMatch,
  PathMatch_Type,
  type ValueMatch,
  ValueMatch_Type,
} from "@bowline/contract/deployments";
import type { ProductManifest } from "@bowline/contract/products";
import { problem, type Violation } from "@bowline/kernel";
import { backendUrlProblem, privateBackends } from "./backend-urls.ts";
import { checkFilters } from "./filters.ts";
import { matchedPathProblem } from "./paths.ts";
import { patternProblem } from "./patterns.ts";
import { patternViolations, sizeViolations } from "./sizes.ts";
import { hasControls, textViolations } from "./texts.ts";

export interface ManifestRules {
  /** The gateway class that it is for. Nothing depends on it yet: what is taken here is what `embedded` serves. */
  gatewayClass?: string;
  /** False: backends that point inside are told too. Undefined: the cluster isn't known yet, so nothing is said. */
  allowPrivateBackends?: boolean;
}

/** More than a person reads; a manifest may have thousands of routes with the same mistake. */
const maxViolations = 100;

/** All that is wrong with a manifest; empty: nothing. */
export function validateManifest(manifest: ProductManifest, rules: ManifestRules = {}): Violation[] {
  const tooMuch = sizeViolations(manifest);
  if (tooMuch.length > 0) return tooMuch;
  const found: Violation[] = textViolations(manifest, "");
  checkNames(manifest.apiServices, "api_services", "API service", found);
  for (const [s, service] of manifest.apiServices.entries()) {
    const at = `api_services[${s}]`;
    found.push(...textViolations(service, at));
    checkNames(service.routes, `${at}.routes`, "route", found);
    checkNames(service.backends, `${at}.backends`, "backend", found);
    const backends = new Set(service.backends.map((backend) => backend.name));
    for (const [r, route] of service.routes.entries())
      found.push(...validateRoute(route, backends, `${at}.routes[${r}]`));
    for (const [b, backend] of service.backends.entries())
      found.push(...validateBackend(backend, `${at}.backends[${b}]`));
  }
  if (rules.allowPrivateBackends === false)
    for (const { path, url } of privateBackends(manifest))
      found.push({ field: path, description: `${url} points inside the place's network.` });
  return found.slice(0, maxViolations);
}

/** Throws INVALID_ARGUMENT that has them, if there are any. */
export function refuseViolations(violations: readonly Violation[]): void {
  const [first] = violations;
  if (first === undefined) return;
  throw problem("INVALID_ARGUMENT", `${first.field}: ${first.description}`, { violations });
}

/** What is wrong with one route of an API service that has these backends. `at` is the route's own path. */
export function validateRoute(route: HttpRoute, backends: ReadonlySet<string>, at: string): Violation[] {
  const found: Violation[] = patternViolations([route], at);
  if (found.length > 0) return found;
  for (const [m, match] of route.matches.entries()) checkMatch(match, `${at}.matches[${m}]`, found);
  checkFilters(route, backends, at, found);
  checkBackendRefs(route, backends, at, found);
  const whole = durationMs(route.requestTimeout);
  const attempt = durationMs(route.backendRequestTimeout);
  if (whole !== undefined && attempt !== undefined && attempt > whole)
    found.push({
      field: `${at}.backend_request_timeout`,
      description: "One try must not be allowed more time than the whole request (request_timeout).",
    });
  return found;
}

/** What is wrong with one backend. `at` is the backend's own path. */
export function validateBackend(backend: Backend, at: string): Violation[] {
  const wrong = backendUrlProblem(backend.url);
  const found: Violation[] = wrong === undefined ? [] : [{ field: `${at}.url`, description: `The URL ${wrong}.` }];
  const seen = new Set<string>();
  for (const [h, { name }] of backend.secretHeaders.entries()) {
    const field = `${at}.secret_headers[${h}].name`;
    if (seen.has(name.toLowerCase())) found.push({ field, description: `${name} is set more than once.` });
    if (proxyHeaders.has(name.toLowerCase())) found.push({ field, description: `${name} is the proxy's own.` });
    seen.add(name.toLowerCase());
  }
  return found;
}

/** What a proxy writes itself; a value of somebody else would change where a request ends, or where it goes. */
const proxyHeaders: ReadonlySet<string> = new Set([
  "connection",
  "content-length",
  "expect",
  "host",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "via",
]);

function checkBackendRefs(route: HttpRoute, backends: ReadonlySet<string>, at: string, found: Violation[]): void {
  const redirects = route.filters.some((filter) => filter.kind.case === "redirect");
  if (redirects) {
    if (route.backends.length > 0)
      found.push({ field: `${at}.backends`, description: "A route that redirects sends nothing to a backend." });
    return;
  }
  if (route.backends.length === 0) {
    found.push({ field: `${at}.backends`, description: "A route needs a backend, or a filter that redirects." });
    return;
  }
  for (const [b, ref] of route.backends.entries())
    if (!backends.has(ref.backend))
      found.push({
        field: `${at}.backends[${b}].backend`,
        description: `The API service has no backend named ${JSON.stringify(ref.backend)}.`,
      });
  if (route.backends.every((ref) => ref.weight === 0))
    found.push({ field: `${at}.backends`, description: "All weights are 0: no request would be sent anywhere." });
}

function checkMatch(match: HttpMatch, at: string, found: Violation[]): void {
  if (match.path !== undefined) checkPath(match.path, `${at}.path.value`, found);
  checkValues(match.headers, `${at}.headers`, (name) => name.toLowerCase(), found);
  checkValues(match.queryParams, `${at}.query_params`, (name) => name, found);
}

function checkPath(path: PathMatch, field: string, found: Violation[]): void {
  const wrong = path.type === PathMatch_Type.REGEX ? patternProblem(path.value) : matchedPathProblem(path.value);
  if (wrong !== undefined) found.push({ field, description: `The path ${wrong}.` });
}

function checkValues(
  values: readonly ValueMatch[],
  at: string,
  key: (name: string) => string,
  found: Violation[],
): void {
  const seen = new Set<string>();
  for (const [v, value] of values.entries()) {
    if (seen.has(key(value.name)))
      found.push({ field: `${at}[${v}].name`, description: `${value.name} is matched more than once.` });
    seen.add(key(value.name));
    const wrong =
      value.type === ValueMatch_Type.REGEX
        ? patternProblem(value.value)
        : hasControls(value.value)
          ? "must not contain control characters"
          : undefined;
    if (wrong !== undefined) found.push({ field: `${at}[${v}].value`, description: `The value ${wrong}.` });
  }
}

function checkNames(items: readonly { name: string }[], at: string, noun: string, found: Violation[]): void {
  const seen = new Set<string>();
  for (const [i, { name }] of items.entries()) {
    if (seen.has(name))
      found.push({ field: `${at}[${i}].name`, description: `There is another ${noun} named ${JSON.stringify(name)}.` });
    seen.add(name);
  }
}

function durationMs(duration: { seconds: bigint; nanos: number } | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}
