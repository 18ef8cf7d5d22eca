/**
 * Enrolments that come at once. Those of one cluster wait for each other
 * anyway, at the cluster's row (N2); so they share its lock, a connection and a
 * commit.
 *
 * L1: one set per cluster is under way, and a few clusters' at a time: however
 *     many enrol, most of the pool is left for the fleet that runs.
 * L2: a set that fails as a whole is repeated one by one, so that one bad row
 *     costs that row; not where the database is away or the commit's outcome is
 *     unknown.
 * L3: so many are in work at a time, also those whose token is none; who comes
 *     beyond is told when to come again, spread out.
 */
import { fullJitter, isProblem, problem } from "@bowline/kernel";
import { isDatabaseAway } from "../platform/problems.ts";

export interface Enrolments<Item, Answer> {
  /** Runs one call, start to end. Throws OVERLOADED with a time to wait where too many are in work (L3). */
  admitted<T>(call: () => Promise<T>): Promise<T>;
  /** Resolves with what is answered for it, in a set of its cluster. */
  add(clusterId: string, item: Item): Promise<Answer>;
}

interface Waiting<Item, Answer> {
  item: Item;
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
}

/** A busy server enrols about a hundred a second: who is the last of these waits some seconds. */
export const maxEnrolling = 256;
/** Of twenty connections by default; a wave of enrolments is one cluster's as a rule. */
const maxLanes = 3;
/** Enrolments in one transaction, at a few ms each: others wait for the cluster's row. */
const maxSet = 16;
/** By then half of those in work are done. */
const comeAgain = { floorMs: 1_000, baseMs: 4_000, capMs: 4_000 };

/** `write` answers one per item, in order, in one transaction. */
export function createEnrolments<Item, Answer>(
  write: (items: readonly Item[]) => Promise<readonly Answer[]>,
  random: () => number = Math.random,
): Enrolments<Item, Answer> {
  let inWork = 0;
  let running = 0;
  /** What waits, by cluster: of those with a set under way, and of those that wait for their turn. */
  const lanes = new Map<string, Waiting<Item, Answer>[]>();
  const turns: string[] = [];

  async function drain(set: readonly Waiting<Item, Answer>[]): Promise<void> {
    try {
      settle(set, await write(set.map(({ item }) => item)));
    } catch (error) {
      const alike = set.length === 1 || isDatabaseAway(error) || isProblem(error, "COMMIT_UNKNOWN");
      if (alike) for (const { reject } of set) reject(error);
      else for (const one of set) await write([one.item]).then((answers) => settle([one], answers), one.reject); // L2
    }
  }

  /** A set of whose turn it is, and of the next, until nobody waits (L1). */
  async function work(): Promise<void> {
    running += 1;
    for (let clusterId = turns.shift(); clusterId !== undefined; clusterId = turns.shift()) {
      const waiting = lanes.get(clusterId) ?? [];
      await drain(waiting.splice(0, maxSet));
      if (waiting.length > 0) turns.push(clusterId);
      else lanes.delete(clusterId);
    }
    running -= 1;
  }

  return {
    async admitted(call) {
      if (inWork >= maxEnrolling) {
        const retryAfterMs = fullJitter(comeAgain, 0, random);
        const metadata = { limit: "enrolments" };
        throw problem("OVERLOADED", "Too many agents enrol at this moment.", { retryAfterMs, metadata });
      }
      inWork += 1;
      try {
        return await call();
      } finally {
        inWork -= 1;
      }
    },
    add: (clusterId, item) =>
      new Promise((resolve, reject) => {
        const one = { item, resolve, reject };
        const lane = lanes.get(clusterId);
        if (lane !== undefined) return void lane.push(one);
        lanes.set(clusterId, [one]);
        turns.push(clusterId);
        if (running < maxLanes) void work();
      }),
  };
}

function settle<Answer>(set: readonly Waiting<unknown, Answer>[], answers: readonly Answer[]): void {
  for (const [at, { resolve }] of set.entries()) resolve(answers[at] as Answer);
}
