/**
 * How much one agent says: its messages on a stream, its requests and what they
 * carry. Far above what an agent has to say, and below what would keep others
 * waiting. Counted in memory, by each replica.
 */
import { isProblem, problem } from "@bowline/kernel";
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";

export interface PacePorts {
  /** Messages of one agent per second, over `paceWindowSeconds`. 0: any number. */
  perSecond: number;
  /** Is told of each message or request that is refused. */
  refused: (agentId: string) => void;
}

export interface Pace {
  /** Counts what an agent says. Throws OVERLOADED with a time to wait. */
  count(agentId: string, messages?: number): Promise<void>;
}

/** Whoever comes back after a day says a day's results within it: bursts are welcome, floods last longer. */
export const paceWindowSeconds = 20;

/** Whether it is this limit that a session was ended by. */
export function isFlood(error: unknown): boolean {
  return isProblem(error, "OVERLOADED") && error.metadata?.["limit"] === "agent-messages";
}

export function createPace({ perSecond, refused }: PacePorts): Pace {
  const points = perSecond * paceWindowSeconds;
  const agents = new RateLimiterMemory({ points, duration: paceWindowSeconds });
  return {
    async count(agentId, messages = 1) {
      if (perSecond === 0 || messages === 0) return;
      try {
        await agents.consume(agentId, messages);
      } catch (error) {
        if (!(error instanceof RateLimiterRes)) throw error;
        refused(agentId);
        throw problem("OVERLOADED", `An agent says at most ${points} things in ${paceWindowSeconds} s.`, {
          retryAfterMs: Math.max(1, error.msBeforeNext),
          metadata: { limit: "agent-messages" },
        });
      }
    },
  };
}
