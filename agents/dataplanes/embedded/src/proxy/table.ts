/**
 * All attached routes as one immutable index, and the search in it.
 *
 *   compile.ts   makes entries of one deployment's routes   attached.ts  holds the current table
 *
 * T1: of all entries that match a request the most specific is found: exact
 *     host, longest wildcard, none; exact path, longest prefix, regex; with a
 *     method; more headers; more query parameters; then the older deployment
 *     (their ids sort by age), then the name, then the place in the route.
 * T2: a table never changes. A request holds the entry that it found.
 */
import type { IncomingHttpHeaders } from "node:http";
import type { Pattern } from "./pattern.ts";
import type { ServedDeployment, ServedRoute } from "./served.ts";

/** A condition on one header (lower case) or one query parameter. */
export interface Condition {
  name: string;
  matches: Pattern;
}

export type PathCondition =
  | { kind: "exact"; path: string }
  /** Without a last slash; empty: every path. */
  | { kind: "prefix"; prefix: string }
  | { kind: "regex"; matches: Pattern };

/** One match of one route, for one of its hosts. */
export interface Entry {
  /** Empty: every host. `*.` and a suffix, or a name. */
  host: string;
  path: PathCondition;
  /** Empty: any. */
  method: string;
  headers: readonly Condition[];
  query: readonly Condition[];
  deployment: ServedDeployment;
  route: ServedRoute;
  /** Place of the match within its route. */
  place: number;
}

/** What a request is matched by. */
export interface Asked {
  host: string;
  path: string;
  search: string;
  method: string;
  headers: IncomingHttpHeaders;
}

export interface Table {
  find(asked: Asked): Entry | undefined;
}

/** T1 from the method on: what comes first among entries with the same host and path condition. */
export function compareEntries(a: Entry, b: Entry): number {
  return (
    Number(b.method !== "") - Number(a.method !== "") ||
    b.headers.length - a.headers.length ||
    b.query.length - a.query.length ||
    compareText(a.deployment.id, b.deployment.id) ||
    compareText(a.route.name, b.route.name) ||
    a.place - b.place
  );
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Entries of one host condition. */
interface Bucket {
  exact: Map<string, Entry[]>;
  prefixes: Map<string, Entry[]>;
  /** Lengths of all prefixes, longest first: at most so many look-ups, however many slashes a path has. */
  lengths: number[];
  regex: Entry[];
}

export function buildTable(entries: readonly Entry[]): Table {
  const buckets = new Map<string, Bucket>();
  for (const entry of [...entries].sort(compareEntries)) {
    const bucket = atOr(buckets, entry.host, () => ({ exact: new Map(), prefixes: new Map(), lengths: [], regex: [] }));
    switch (entry.path.kind) {
      case "exact":
        atOr(bucket.exact, entry.path.path, () => []).push(entry);
        break;
      case "prefix":
        atOr(bucket.prefixes, entry.path.prefix, () => []).push(entry);
        break;
      case "regex":
        bucket.regex.push(entry);
        break;
      default:
        entry.path satisfies never;
    }
  }
  for (const bucket of buckets.values()) {
    const lengths = new Set([...bucket.prefixes.keys()].map((prefix) => prefix.length));
    bucket.lengths = [...lengths].sort((a, b) => b - a);
  }
  return {
    find(asked) {
      const query = lazyQuery(asked.search);
      for (const key of hostKeys(asked.host)) {
        const bucket = buckets.get(key);
        const found = bucket === undefined ? undefined : findIn(bucket, asked, query);
        if (found !== undefined) return found;
      }
      return undefined;
    },
  };
}

/** From the most specific to none. */
function* hostKeys(host: string): Generator<string> {
  yield host;
  for (let dot = host.indexOf("."); dot >= 0; dot = host.indexOf(".", dot + 1)) yield `*${host.slice(dot)}`;
  yield "";
}

type Query = () => URLSearchParams;

function lazyQuery(search: string): Query {
  let parsed: URLSearchParams | undefined;
  return () => (parsed ??= new URLSearchParams(search));
}

function findIn(bucket: Bucket, asked: Asked, query: Query): Entry | undefined {
  const { path } = asked;
  const exact = firstOf(bucket.exact.get(path), asked, query);
  if (exact !== undefined) return exact;
  for (const length of bucket.lengths) {
    if (length > path.length || (length < path.length && path.charCodeAt(length) !== slash)) continue;
    const found = firstOf(bucket.prefixes.get(path.slice(0, length)), asked, query);
    if (found !== undefined) return found;
  }
  const byRegex = (entry: Entry): boolean => entry.path.kind === "regex" && entry.path.matches(path);
  return bucket.regex.find((entry) => holds(entry, asked, query) && byRegex(entry));
}

const slash = "/".charCodeAt(0);

function firstOf(entries: readonly Entry[] | undefined, asked: Asked, query: Query): Entry | undefined {
  return entries?.find((entry) => holds(entry, asked, query));
}

function holds(entry: Entry, asked: Asked, query: Query): boolean {
  if (entry.method !== "" && entry.method !== asked.method) return false;
  for (const { name, matches } of entry.headers) {
    const value = asked.headers[name];
    if (value === undefined || !matches(typeof value === "string" ? value : value.join(", "))) return false;
  }
  for (const { name, matches } of entry.query) {
    const value = query().get(name);
    if (value === null || !matches(value)) return false;
  }
  return true;
}

function atOr<V>(map: Map<string, V>, key: string, make: () => V): V {
  const there = map.get(key);
  if (there !== undefined) return there;
  const made = make();
  map.set(key, made);
  return made;
}
