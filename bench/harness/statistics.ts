/** Numbers of rounds: their middle and their spread, and an order that a seed decides. */

export interface Spread {
  median: number;
  min: number;
  max: number;
  /** First and third quartile: half of all rounds lie between them. */
  lower: number;
  upper: number;
}

/** The value below which `share` of them lie, between neighbours by their distance. NaN of nothing. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const below = sorted[Math.floor(at)] ?? Number.NaN;
  const above = sorted[Math.ceil(at)] ?? Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}

export function spreadOf(values: readonly number[]): Spread {
  const at = (share: number): number => quantile(values, share);
  return { median: at(0.5), min: at(0), max: at(1), lower: at(0.25), upper: at(0.75) };
}

/** Numbers from 0 to 1 that a seed decides (mulberry32): the same order of rounds on every machine. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function shuffled<Item>(items: readonly Item[], random: () => number): Item[] {
  const order = [...items];
  for (let at = order.length - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1));
    [order[at], order[other]] = [order[other] as Item, order[at] as Item];
  }
  return order;
}
