/** What compiling makes of routes and backends: everything that a request needs, checked and ready. */
import type { Pool } from "./pools.ts";

/** Counts of one deployment since the start of the process. Shared by its generations. */
export interface Counters {
  requests: number;
  inFlight: number;
  answers: Record<string, number>;
}

export interface ServedDeployment {
  id: string;
  generation: number;
  counters: Counters;
}

export interface ServedRoute {
  /** `<api service>/<route>`. */
  name: string;
  requestHeaders: HeaderChanges | undefined;
  responseHeaders: HeaderChanges | undefined;
  redirect: ServedRedirect | undefined;
  rewrite: { hostname: string; path: PathChange | undefined } | undefined;
  mirrors: readonly { backend: ServedBackend; percent: number }[];
  cors: ServedCors | undefined;
  backends: readonly Share[];
  /** From arrival to the end of the response; undefined: none. */
  requestTimeoutMs: number | undefined;
  /** Until the response's headers; undefined: the default, which each sent piece of the body renews. */
  backendTimeoutMs: number | undefined;
}

export interface ServedBackend {
  name: string;
  /** As written, for messages. */
  url: string;
  /** Path before the request's path, without a last slash. */
  basePath: string;
  /** Set on each request to it, and on no other's. */
  secretHeaders: readonly { key: string; name: string; value: string }[];
  /** Replaced by the pool of the generation before where both are to the same place. */
  pool: Pool;
}

/** A backend with its share; `credit` is the state of the smooth round robin. */
export interface Share {
  backend: ServedBackend;
  weight: number;
  credit: number;
}

export interface HeaderChanges {
  /** Names are lower case in `key`, as written in `name`. */
  set: readonly { key: string; name: string; value: string }[];
  add: readonly { key: string; name: string; value: string }[];
  remove: readonly string[];
}

export type PathChange = { kind: "full"; path: string } | { kind: "prefix"; replace: string };

export interface ServedRedirect {
  scheme: string;
  hostname: string;
  port: number;
  path: PathChange | undefined;
  status: number;
}

/** Origins are lower case. */
export interface Origins {
  all: boolean;
  exact: ReadonlySet<string>;
  /** What stands before and after a `*`. */
  wildcards: readonly { before: string; after: string }[];
}

export interface ServedCors {
  origins: Origins;
  methods: readonly string[];
  headers: readonly string[];
  expose: readonly string[];
  credentials: boolean;
  maxAgeSeconds: number;
}

/** The next backend by weight: each gets its share in any window, spread evenly. Undefined: nothing has a weight. */
export function nextBackend(shares: readonly Share[]): ServedBackend | undefined {
  let total = 0;
  let best: Share | undefined;
  for (const share of shares) {
    if (share.weight === 0) continue;
    share.credit += share.weight;
    total += share.weight;
    if (best === undefined || share.credit > best.credit) best = share;
  }
  if (best !== undefined) best.credit -= total;
  return best?.backend;
}
