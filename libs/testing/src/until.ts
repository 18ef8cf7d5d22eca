/** Waiting for a condition, never for a time. */
import { setTimeout as sleep } from "node:timers/promises";

/** Long enough for a busy two-core machine, a quarter of a test's time. */
const defaultWithinMs = 30_000;

/** The pause grows from the first to the second: quick answers stay quick, slow ones cost no CPU. */
const firstPauseMs = 5;
const longestPauseMs = 100;

type Truthy<T> = Exclude<T, false | null | undefined | 0 | "">;

/**
 * Asks `condition` until its answer is truthy and returns that. What it throws
 * counts as "not yet". After `withinMs` it throws, with `what` was waited for
 * and the last answer or error; it asks once more first, since this process may
 * have stood still in between.
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  options: { withinMs?: number; what?: string } = {},
): Promise<Truthy<T>> {
  const { withinMs = defaultWithinMs, what = condition.toString() } = options;
  const giveUpAt = performance.now() + withinMs;
  let pauseMs = firstPauseMs;
  let last: unknown;
  for (;;) {
    const askedAt = performance.now();
    try {
      const answer = await condition();
      if (answer) return answer as Truthy<T>;
      last = answer;
    } catch (error) {
      last = error;
    }
    if (askedAt > giveUpAt) {
      const cause = last instanceof Error ? last : undefined;
      throw new Error(`after ${withinMs} ms still not: ${what}; last: ${cause?.message ?? JSON.stringify(last)}`, {
        cause,
      });
    }
    await sleep(pauseMs);
    pauseMs = Math.min(pauseMs * 1.5, longestPauseMs);
  }
}
