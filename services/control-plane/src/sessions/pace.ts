/**
 * How much one agent says: its messages on a stream, its requests and what they
 * carry. Far above what an agent has to say, and below what would keep others
 * waiting. Counted in memory, by each replica, and without a promise: it is
 * asked for each message.
 */
import { isProblem, problem } from "@bowline/kernel";

export interface PacePorts {
  /** Messages of one agent per second, over `paceWindowSeconds`. 0: any number. */
  perSecond: number;
  /** Is told of each message or request that is refused. */
  refused: (agentId: string) => void;
}

export interface Pace {
  /** Counts what an agent says. Throws OVERLOADED with a time to wait. */
  count(agentId: string, messages?: number): void;
}

/** Whoever comes back after a day says a day's results within it: bursts are welcome, floods last longer. */
export const paceWindowSeconds = 20;

/** Whether it is this limit that a session was ended by. */
export function isFlood(error: unknown): boolean {
  return isProblem(error, "OVERLOADED") && error.metadata?.["limit"] === "agent-messages";
}

export function createPace({ perSecond, refused }: PacePorts): Pace {
  const points = perSecond * paceWindowSeconds;
  const windowMs = paceWindowSeconds * 1_000;
  /** Of each agent that said something lately; its window begins with the first word after the one before. */
  const windows = new Map<string, { said: number; until: number }>();
  let sweepAt = 0;
  return {
    count(agentId, messages = 1) {
      if (perSecond === 0 || messages === 0) return;
      const now = performance.now();
      if (now >= sweepAt) {
        for (const [id, { until }] of windows) if (until <= now) windows.delete(id);
        sweepAt = now + windowMs;
      }
      let window = windows.get(agentId);
      if (window === undefined || window.until <= now) {
        window = { said: 0, until: now + windowMs };
        windows.set(agentId, window);
      }
      window.said += messages;
      if (window.said <= points) return;
      refused(agentId);
      throw problem("OVERLOADED", `An agent says at most ${points} things in ${paceWindowSeconds} s.`, {
        retryAfterMs: Math.max(1, Math.ceil(window.until - now)),
        metadata: { limit: "agent-messages" },
      });
    },
  };
}
