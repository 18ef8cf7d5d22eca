/** What the tests take from the environment; nothing else in this package reads it. */

/** Set by the jest run for its workers: where the holder of the shared PostgreSQL answers. */
export const holderSocketVariable = "BOWLINE_TEST_HOLDER";

/** Where it answers for the shared Docker Engine. */
export const engineSocketOf = (holderSocket: string): string => `${holderSocket}-engine`;

/** What the run tells the holder before it ends; without it the run was killed. */
export const inOrder = "in order";

/** Node's own: where the processes of a run keep what they compiled, for each other and the next run. */
export const compileCacheVariable = "NODE_COMPILE_CACHE";

export type TestSettings = {
  /** A PostgreSQL to use instead of the embedded one; its user may create databases. */
  databaseUrl: string | undefined;
  /** A Redis to use where redis-server is not at hand. */
  redisUrl: string | undefined;
  /** A Docker Engine to use instead of one of the run's own, e.g. `unix:///var/run/docker.sock`. */
  dockerHost: string | undefined;
  holderSocket: string | undefined;
  /** Number of the process among those of a jest run, from 1; outside of one 0. */
  worker: number;
  /** Where programs are looked for. */
  path: string;
};

/** Read at each call: the jest run sets variables after this module was loaded. */
export function testSettings(): TestSettings {
  return {
    databaseUrl: text("TEST_DATABASE_URL"),
    redisUrl: text("TEST_REDIS_URL"),
    dockerHost: text("TEST_DOCKER_HOST"),
    holderSocket: text(holderSocketVariable),
    worker: Number(text("JEST_WORKER_ID") ?? 0),
    path: process.env["PATH"] ?? "/usr/local/bin:/usr/bin:/bin",
  };
}

/** An empty variable is an unset one. */
function text(name: string): string | undefined {
  const value = process.env[name];
  return value === undefined || value === "" ? undefined : value;
}
