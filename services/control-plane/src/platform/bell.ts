/** A wake-up that many may wait for and that is never missed: a number that grows. */
export interface Bell {
  /** Wakes everybody who waits now. */
  ring(): void;
  /** How often it rang; to be read before looking at what it announces. */
  count(): number;
  /** Resolves when it has rung more often than `seen`, after `ms`, or when `signal` aborts. */
  wait(seen: number, ms: number, signal: AbortSignal): Promise<void>;
}

export function createBell(): Bell {
  let rings = 0;
  const waiters = new Set<() => void>();
  return {
    ring() {
      rings += 1;
      for (const wake of waiters) wake();
    },
    count: () => rings,
    wait(seen, ms, signal) {
      if (rings > seen || signal.aborted) return Promise.resolve();
      return new Promise((resolve) => {
        const wake = (): void => {
          clearTimeout(timer);
          waiters.delete(wake);
          signal.removeEventListener("abort", wake);
          resolve();
        };
        const timer = setTimeout(wake, ms);
        waiters.add(wake);
        signal.addEventListener("abort", wake, { once: true });
      });
    },
  };
}
