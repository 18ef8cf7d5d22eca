/**
 * How many dials become sessions. A replica that takes every dial of a fleet
 * that comes back at once serves none of them; whoever is refused is told when
 * to come again, spread out.
 *
 * D1: at most so many dials are in work at a time, also those that prove nothing.
 * D2: only a dial that proved its agent takes from the rates, so that nobody
 *     without a key uses them up.
 * D3: one agent in a tight loop takes its own share and no more.
 */
import { fullJitter, problem, type Problem } from "@bowline/kernel";
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";

export interface DialPorts {
  /** Sessions opened per second; as many may come at once. 0: any number, of one agent too. */
  perSecond: number;
  clock: { monotonicMs(): number };
  random?: () => number;
  /** Is told of each dial that is refused. */
  refused: (limit: "dials" | "openings" | "agent-dials") => void;
}

export interface Dials {
  /** Runs one step of an opening in the database. Throws OVERLOADED where too many are in work. */
  working<T>(step: () => Promise<T>): Promise<T>;
  /** Openings in work. */
  waiting(): number;
  /** Counts a dial of an agent that proved itself. Throws OVERLOADED with a time to wait. */
  count(agentId: string): Promise<void>;
}

/** Steps take about 5 ms each over 20 connections: this many are done within a second on a slow database. */
export const maxOpenings = 256;
/**
 * Dials of one agent per window. Its own backoff makes a handful; operators who
 * restart it make a few more.
 */
export const agentDials = { count: 20, windowSeconds: 20 };
/** When a refused agent comes again. At 200 a second, 3000 agents are taken within it; its own backoff adds to that. */
const comeAgain = { floorMs: 1_000, baseMs: 15_000, capMs: 15_000 };

export function createDials({ perSecond, clock, random = Math.random, refused }: DialPorts): Dials {
  let inWork = 0;
  let tokens = perSecond;
  let filledAt = clock.monotonicMs();
  const { count: points, windowSeconds: duration } = agentDials;
  const agents = new RateLimiterMemory({ points, duration });

  const overloaded = (limit: Parameters<DialPorts["refused"]>[0], message: string, atLeastMs = 0): Problem => {
    refused(limit);
    const retryAfterMs = atLeastMs + fullJitter(comeAgain, 0, random);
    return problem("OVERLOADED", message, { retryAfterMs, metadata: { limit } });
  };
  const takeToken = (): boolean => {
    const now = clock.monotonicMs();
    tokens = Math.min(perSecond, tokens + ((now - filledAt) / 1000) * perSecond);
    filledAt = now;
    if (tokens < 1) return false;
    tokens -= 1;
    return true;
  };
  return {
    async working(step) {
      if (inWork >= maxOpenings) throw overloaded("openings", "Too many agents dial at this moment."); // D1
      inWork += 1;
      try {
        return await step();
      } finally {
        inWork -= 1;
      }
    },
    waiting: () => inWork,
    async count(agentId) {
      if (perSecond === 0) return;
      try {
        await agents.consume(agentId); // D3: before the replica's rate, from which a loop must take nothing
      } catch (error) {
        if (!(error instanceof RateLimiterRes)) throw error;
        const message = `This agent dialled more than ${points} times in ${duration} s.`;
        throw overloaded("agent-dials", message, error.msBeforeNext);
      }
      if (!takeToken()) throw overloaded("dials", `This replica opens ${perSecond} sessions a second.`);
    },
  };
}
