/** The times of the Docker runtime, in ms. One value, so that a test can scale them; an agent uses the defaults. */
export interface Times {
  /**
   * A workload without a health check is there when it ran this long: shorter,
   * and a program that fails while it loads counts as started; longer, and
   * every publish waits for it.
   */
  settleMs: number;
  /** Between two attempts to reach an engine that is away: this at first, then doubled up to the other. */
  reconnectFirstMs: number;
  reconnectMaxMs: number;
  /** How often an engine is asked whether it is there: a fraction of the minute after which people should know. */
  pingEveryMs: number;
  /** How long it may take to answer; one under load takes seconds. */
  pingWithinMs: number;
}

export const defaultTimes: Times = {
  settleMs: 1_000,
  reconnectFirstMs: 250,
  reconnectMaxMs: 5_000,
  pingEveryMs: 15_000,
  pingWithinMs: 15_000,
};
