/** Bounds of a backoff, in ms: `floorMs` <= every wait <= `capMs`. */
export type BackoffBounds = {
  /** The longest wait before the second attempt; doubles with every further one. */
  baseMs: number;
  capMs: number;
  /** No wait is shorter, so that a peer that fails at once is not hammered. */
  floorMs: number;
};

/**
 * How long to wait after the failed attempt number `attempt` (the first is 0):
 * evenly spread between the floor and `baseMs * 2^attempt`, capped. Spread over
 * the whole range, so that a fleet that lost its server does not return as one
 * ("full jitter", aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
 *
 * `random` returns a number in [0, 1). The result is a whole number.
 */
export function fullJitter(bounds: BackoffBounds, attempt: number, random: () => number = Math.random): number {
  const { baseMs, capMs, floorMs } = bounds;
  if (!(0 <= floorMs && floorMs <= baseMs && baseMs <= capMs)) {
    throw new RangeError(`not floor <= base <= cap: ${floorMs}, ${baseMs}, ${capMs}`);
  }
  if (!(attempt >= 0)) throw new RangeError(`not an attempt: ${attempt}`);
  const ceilingMs = Math.min(capMs, baseMs * 2 ** attempt);
  return Math.round(floorMs + random() * (ceilingMs - floorMs));
}
