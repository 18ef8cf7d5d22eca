/** Seeded histories of the simulated engine (tests/simulation), and the defects that only many of them find. */
import { describe, expect, test } from "@jest/globals";
import { Coverage } from "../simulation/coverage.ts";
import { simulate } from "../simulation/history.ts";
import { mutants } from "../simulation/mutants.ts";

/** CI runs the same ones each time; `npm run simulate` looks for others. */
const seed = "ci";
const histories = 300;
const mayBeMissing = 15;
/** Enough for a defect that shows in one of fifty. */
const atMost = 600;
/** A quarter of a minute; many times that on a busy machine. */
const withinMs = 900_000;

test(
  "hundreds of histories violate no invariant, and take nearly every transition of the table",
  async () => {
    const coverage = new Coverage();
    for (let number = 1; number <= histories; number += 1) {
      const history = await simulate(`${seed}/${number}`);
      coverage.add(history.coverage);
      // Told with its seed: `npm run simulate -- --only-seed <seed> --trace` shows it.
      expect({ seed: history.seed, violations: history.violations }).toEqual({ seed: history.seed, violations: [] });
    }
    // A thousand take all of them; of these a few that need two rare things at once may be missing.
    expect(coverage.missing().length).toBeLessThan(mayBeMissing);
  },
  withinMs,
);

describe("a defect that shows seldom is found:", () => {
  const rare = Object.entries(mutants).filter(([, mutant]) => mutant.rare === true);
  test.each(rare)(
    "%s",
    async (_name, { options, breaks }) => {
      for (let number = 1; number <= atMost; number += 1) {
        const { violations } = await simulate(`mutant/${number}`, options);
        if (violations.length === 0) continue;
        expect(violations.some(({ invariant }) => breaks.includes(invariant))).toBe(true);
        return;
      }
      throw new Error(`none of ${atMost} histories violates anything`);
    },
    withinMs,
  );
});
