/**
 * The times of the local runtime, in ms. One value, so that a test can scale
 * them; an agent uses the defaults.
 */
export interface Times {
  /** Wait before the second start of an instance that ended; doubles with each further one. */
  backoffFirstMs: number;
  backoffMaxMs: number;
  /** A run of this length counts as a success: the wait starts anew. */
  stableAfterMs: number;
  /**
   * A workload without a health check is there when it ran this long: shorter,
   * and a program that fails while it loads counts as started; longer, and
   * every publish waits for it.
   */
  settleMs: number;
  /** Between two looks at the size of each log. */
  logCutMs: number;
}

/** As the contract says, where it says something. */
export const defaultTimes: Times = {
  backoffFirstMs: 1_000,
  backoffMaxMs: 60_000,
  stableAfterMs: 60_000,
  settleMs: 1_000,
  logCutMs: 1_000,
};
