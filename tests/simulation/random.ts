/** Chance from a seed: the same seed is the same history. */
export interface Random {
  /** In [0, 1). */
  next(): number;
  /** Evenly between the two. */
  between(low: number, high: number): number;
  /** A whole number from 0 to `below` - 1. */
  below(below: number): number;
  chance(probability: number): boolean;
  pick<T>(from: readonly T[]): T;
  /** By weight; a weight of 0 is never taken. */
  weighted<T>(from: readonly (readonly [weight: number, value: T])[]): T;
  /** Another stream of chance, so that what draws more from it changes nothing elsewhere. */
  fork(name: string): Random;
}

export function createRandom(seed: string): Random {
  let state = hash(seed);
  /** mulberry32: 32 bits of state are enough for histories of some thousand draws. */
  function next(): number {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }
  const below = (limit: number): number => Math.floor(next() * limit);
  return {
    next,
    between: (low, high) => low + next() * (high - low),
    below,
    chance: (probability) => next() < probability,
    pick<T>(from: readonly T[]): T {
      if (from.length === 0) throw new RangeError("nothing to pick from");
      return from[below(from.length)] as T;
    },
    weighted<T>(from: readonly (readonly [number, T])[]): T {
      let rest = next() * from.reduce((sum, [weight]) => sum + weight, 0);
      for (const [weight, value] of from) {
        rest -= weight;
        if (rest < 0) return value;
      }
      throw new RangeError("nothing has a weight");
    },
    fork: (name) => createRandom(`${seed}/${name}`),
  };
}

/** FNV-1a, and a last mix, so that seeds that are alike are not alike. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) value = Math.imul(value ^ text.charCodeAt(at), 0x01000193);
  value ^= value >>> 16;
  value = Math.imul(value, 0x85ebca6b);
  return (value ^ (value >>> 13)) | 0;
}
