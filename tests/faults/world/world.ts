/**
 * What a scenario stands on: servers, hosts, callers, a seed, and the history that
 * they all write. What it starts ends with it; what `shared` gives is left to the
 * scenarios after it.
 *
 *   place.ts   a cluster: hosts and callers     hosts.ts     agents as processes
 *   calls.ts   callers with keys                witness.ts   the database's own words
 *   redis-pair.ts  two replicas with a Redis
 *   random.ts  what a seed repeats              watching.ts  a client that watches
 */
import { type ServerOptions, startServer, type TestServer, until } from "@bowline/testing";
import type { History } from "../history/history.ts";
import { createPlace, type Place, type Within } from "./place.ts";
import { type RedisPair, startRedisPair } from "./redis-pair.ts";
import { createRandom, type Random } from "./random.ts";
import { installWitness } from "./witness.ts";

/** Times above a minute are divided by this: ten minutes are ten seconds. */
export const scaleFactor = 60;
const unscaledBelowMs = 60_000;

export interface World {
  seed: number;
  random: Random;
  history: History;
  realTime: boolean;
  /** A time of production, as it is waited for here. */
  scale(ms: number): number;
  /** The replica that scenarios share; none may end it or change it for others. */
  shared: TestServer;
  /** Throws where the scenario does not say that it needs it. */
  redisPair(): RedisPair;
  /** Another replica beside it, of this scenario's own. */
  beside(options?: Omit<ServerOptions, "beside">): Promise<TestServer>;
  /** A server of this scenario's own, with a database of its own. */
  server(options?: ServerOptions): Promise<TestServer>;
  /** A new cluster there; default: at the shared server. */
  place(server?: TestServer): Promise<Place>;
  /** Says in the history what is broken, and when it is no more. */
  fault<T>(name: string, during: () => T | Promise<T>): Promise<T>;
  within: Within;
  /** Runs them all at once, to their ends; throws what the first that failed threw. */
  together(works: readonly Promise<void>[]): Promise<void>;
  /** Last words of all places. */
  close(): Promise<void>;
}

/** Flags of the shared server. A lease of production is 15 s and 30 s. */
const sharedFlags = ["--lease-ms", "3000", "--lease-grace-ms", "3000"];

/** What scenarios share, so that not each starts it anew. */
export interface Shared {
  server: TestServer;
  redis: RedisPair | undefined;
}

export type Need = "redis";

export async function startShared(needs: readonly Need[]): Promise<Shared> {
  const server = await startServer({ flags: sharedFlags });
  await installWitness(server.database.db);
  return { server, redis: needs.includes("redis") ? await startRedisPair() : undefined };
}

export function createWorld(parts: {
  /** Names what this scenario makes. */
  name: string;
  seed: number;
  history: History;
  realTime: boolean;
  shared: Shared;
}): World {
  const { name, seed, history, realTime } = parts;
  const { server: shared, redis } = parts.shared;
  const places: Place[] = [];
  let named = 0;

  const within: Within = async (what, boundMs, condition) => {
    const from = performance.now();
    try {
      await until(condition, { withinMs: boundMs, what });
    } catch (error) {
      history.append({ kind: "waited", what, boundMs, tookMs: null });
      throw error;
    }
    // The last look may come after the bound; what it found was there before.
    history.append({ kind: "waited", what, boundMs, tookMs: Math.min(boundMs, performance.now() - from) });
  };

  return {
    ...{ seed, random: createRandom(seed), history, realTime, shared, within },
    redisPair() {
      if (redis === undefined) throw new Error("the scenario does not say that it needs a Redis");
      return redis;
    },
    scale: (ms) => (realTime || ms <= unscaledBelowMs ? ms : ms / scaleFactor),
    beside: (options) => startServer({ flags: sharedFlags, ...options, beside: shared }),
    async server(options) {
      const server = await startServer(options);
      await installWitness(server.database.db);
      return server;
    },
    async place(server = shared) {
      named += 1;
      const cluster = `${name}-${named}`;
      const place = await createPlace({ history, server, cluster, within });
      places.push(place);
      return place;
    },
    async fault(what, during) {
      history.append({ kind: "fault", name: what, phase: "begins" });
      try {
        return await during();
      } finally {
        history.append({ kind: "fault", name: what, phase: "ends" });
      }
    },
    async together(works) {
      const ends = await Promise.allSettled(works);
      for (const end of ends) if (end.status === "rejected") throw end.reason;
    },
    async close() {
      for (const place of places) await place.close();
    },
  };
}
