/** Time as a port, so that whatever waits can be tested without waiting. */
export type Clock = {
  /** Wall time in ms since 1970. May jump, backwards too: for showing and storing, not for measuring. */
  now(): number;
  /** Ms since some start; never goes back. For durations within one process. */
  monotonicMs(): number;
  /**
   * Resolves after `ms`, or at once when `signal` aborts: an early end is not
   * an error, and the caller looks at its signal anyway. Zero or less resolves
   * in the next turn.
   */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
};

/** The longest wait that setTimeout knows; more would fire at once. */
const maxTimerMs = 2 ** 31 - 1;

/** This machine's clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonicMs: () => performance.now(),
  async sleep(ms, signal) {
    const until = performance.now() + ms;
    for (let rest = ms; ; rest = until - performance.now()) {
      await timer(Math.min(Math.max(rest, 0), maxTimerMs), signal);
      if (rest <= maxTimerMs || signal?.aborted === true) return;
    }
  },
};

function timer(ms: number, signal: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted === true) return Promise.resolve();
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timeout);
      signal?.removeEventListener("abort", end); // a signal outlives its many waits
      resolve();
    };
    const timeout = setTimeout(end, ms);
    signal?.addEventListener("abort", end, { once: true });
  });
}
