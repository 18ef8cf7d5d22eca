/**
 * Durations of a long run in little memory: counted in buckets that grow by 5 %,
 * so that a percentile is off by at most that.
 */

const growth = 1.05;
/** Below it nothing is told apart, ms. */
const smallestMs = 0.1;

export interface TimesSummary {
  count: number;
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
}

export interface Times {
  add: (ms: number) => void;
  readonly count: number;
  /** The duration below which that share of them is; NaN where there are none. */
  at: (share: number) => number;
  summary(): TimesSummary | undefined;
}

export function createTimes(): Times {
  const buckets: number[] = [];
  let count = 0;
  let longest = 0;
  const at = (share: number): number => {
    if (count === 0) return Number.NaN;
    let left = Math.max(1, Math.ceil(share * count));
    for (const [bucket, here = 0] of buckets.entries()) {
      left -= here;
      if (left <= 0) return Math.min(longest, smallestMs * growth ** bucket);
    }
    return longest;
  };
  return {
    add(ms) {
      const bucket = ms <= smallestMs ? 0 : Math.ceil(Math.log(ms / smallestMs) / Math.log(growth));
      buckets[bucket] = (buckets[bucket] ?? 0) + 1;
      count += 1;
      longest = Math.max(longest, ms);
    },
    get count() {
      return count;
    },
    at,
    summary() {
      if (count === 0) return undefined;
      return { count, p50Ms: rounded(at(0.5)), p99Ms: rounded(at(0.99)), maxMs: rounded(longest) };
    },
  };
}

const rounded = (ms: number): number => Math.round(ms * 10) / 10;
