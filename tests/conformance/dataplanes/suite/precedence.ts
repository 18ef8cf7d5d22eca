/**
 * Which route gets a request: the naive way, straight from the words of the
 * Gateway API and of routes.proto, to compare every class with.
 */
export interface Match {
  path: { type: 1 | 2 | 3; value: string };
  method: string;
  headers: { type: 1 | 2; name: string; value: string }[];
  queryParams: { type: 1 | 2; name: string; value: string }[];
}

export interface Route {
  /** Of the deployment, older ones sort first. */
  deployment: string;
  name: string;
  hostnames: string[];
  matches: Match[];
}

export interface Asked {
  host: string;
  path: string;
  method: string;
  headers: Record<string, string>;
  query: [string, string][];
}

/** `<deployment>/<route>` that gets the request; undefined: none. */
export function expectedRoute(routes: readonly Route[], asked: Asked): string | undefined {
  const candidates = routes.flatMap((route) =>
    (route.hostnames.length === 0 ? [""] : route.hostnames).flatMap((host) =>
      route.matches
        .filter((match) => hostMatches(host, asked.host) && matches(match, asked))
        .map((match) => ({ route, host, match })),
    ),
  );
  candidates.sort((a, b) => {
    const keysA = keys(a);
    const keysB = keys(b);
    for (const [i, key] of keysA.entries()) {
      if (key < keysB[i]!) return -1;
      if (key > keysB[i]!) return 1;
    }
    return 0;
  });
  const first = candidates[0]?.route;
  return first === undefined ? undefined : `${first.deployment}/${first.name}`;
}

/** Smaller is more specific. */
function keys({ route, host, match }: { route: Route; host: string; match: Match }): (number | string)[] {
  return [
    host === "" ? 2 : host.startsWith("*") ? 1 : 0,
    -host.length,
    match.path.type === 1 ? 0 : match.path.type === 2 ? 1 : 2,
    match.path.type === 2 ? -match.path.value.replace(/\/$/, "").length : 0,
    match.method === "" ? 1 : 0,
    -distinct(match.headers, (name) => name.toLowerCase()).length,
    -distinct(match.queryParams, (name) => name).length,
    route.deployment,
    route.name,
  ];
}

/** Of several conditions on one name the first counts. */
function distinct<T extends { name: string }>(conditions: readonly T[], key: (name: string) => string): T[] {
  return conditions.filter((one, i) => conditions.findIndex((other) => key(other.name) === key(one.name)) === i);
}

function hostMatches(pattern: string, host: string): boolean {
  if (pattern === "") return true;
  return pattern.startsWith("*.") ? host.endsWith(pattern.slice(1)) && host !== pattern.slice(2) : pattern === host;
}

function matches(match: Match, asked: Asked): boolean {
  const { type, value } = match.path;
  const prefix = value.replace(/\/$/, "");
  const path =
    type === 1
      ? asked.path === value
      : type === 2
        ? asked.path === prefix || asked.path.startsWith(`${prefix}/`)
        : new RegExp(`^(?:${value})$`).test(asked.path);
  return (
    path &&
    (match.method === "" || match.method === asked.method) &&
    distinct(match.headers, (name) => name.toLowerCase()).every((condition) =>
      valueMatches(condition, asked.headers[condition.name.toLowerCase()]),
    ) &&
    distinct(match.queryParams, (name) => name).every((condition) =>
      valueMatches(condition, asked.query.find(([name]) => name === condition.name)?.[1]),
    )
  );
}

function valueMatches(condition: { type: 1 | 2; value: string }, value: string | undefined): boolean {
  if (value === undefined) return false;
  return condition.type === 1 ? value === condition.value : new RegExp(`^(?:${condition.value})$`).test(value);
}
