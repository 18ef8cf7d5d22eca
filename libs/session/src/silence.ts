/** Notices a peer that says nothing. */
import type { Clock } from "@bowline/kernel";

export type Silence = {
  /** The peer said something. Costs a clock reading, no timer. */
  heard(): void;
  /** Another limit from now on; the greeting tells it. */
  limit(ms: number): void;
};

/**
 * Calls `silent` once, when nothing was heard for the limit. Watches until
 * `signal` aborts or it has called.
 */
export function watchSilence(
  options: { limitMs: number; clock: Clock; silent: (limitMs: number) => void },
  signal: AbortSignal,
): Silence {
  const { clock } = options;
  let limitMs = options.limitMs;
  let heardAt = clock.monotonicMs();
  /** Ends the sleep. One for many rounds: ten thousand idle streams each have it. */
  let round = new AbortController();
  signal.addEventListener("abort", () => round.abort(), { once: true });
  void watch();
  return {
    heard: () => void (heardAt = clock.monotonicMs()),
    limit: (ms) => {
      limitMs = ms;
      round.abort(); // Sleeps anew, with the new limit.
    },
  };

  async function watch(): Promise<void> {
    while (!signal.aborted) {
      const restMs = heardAt + limitMs - clock.monotonicMs();
      if (restMs <= 0) return options.silent(limitMs);
      if (round.signal.aborted) round = new AbortController();
      await clock.sleep(restMs, round.signal);
    }
  }
}
