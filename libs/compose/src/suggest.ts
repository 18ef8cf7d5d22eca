/** "Did you mean …": the known word that is nearest to what was written. */

/** How many letters must change, at most `limit + 1`. A swap of neighbours is one. */
function distance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1;
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (before[j - 2] ?? 0) + 1);
      next.push(best);
    }
    before = row;
    row = next;
  }
  return row[b.length] ?? limit + 1;
}

/** The nearest of the known words, if one is near enough to be what was meant. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  if (word.length > 64) return undefined; // no key is that long
  const wanted = word.toLowerCase().replaceAll("-", "_");
  const limit = wanted.length <= 4 ? 1 : 2;
  let best: string | undefined;
  let bestDistance = limit + 1;
  for (const candidate of known) {
    const found = distance(wanted, candidate.toLowerCase().replaceAll("-", "_"), limit);
    if (found < bestDistance) [best, bestDistance] = [candidate, found];
  }
  return best;
}
