/** The simulation itself: a seed is a history, and a broken rule is found. tests/faults has the thousand histories. */
import { describe, expect, test } from "@jest/globals";
import { simulate } from "./history.ts";
import { mutants } from "./mutants.ts";
import { regressions } from "./regressions.ts";

/** A frequent defect shows within the first few; a bound, so that one that hides fails the test. */
const histories = 60;

test("the same seed is the same history, to the millisecond", async () => {
  for (const seed of ["same/1", "same/2", "same/3"]) {
    const first = await simulate(seed, { trace: true });
    const second = await simulate(seed, { trace: true });
    expect(first.trace.length).toBeGreaterThan(20);
    expect(second.trace).toEqual(first.trace);
    expect(second.tookMs).toBe(first.tookMs);
  }
});

test.each(regressions)("what seed %s once violated holds (%s)", async (seed) => {
  expect((await simulate(seed)).violations).toEqual([]);
});

describe("a defect is found:", () => {
  const frequent = Object.entries(mutants).filter(([, { rare }]) => rare !== true);
  test.each(frequent)("%s", async (_name, { options, breaks }) => {
    for (let number = 1; number <= histories; number += 1) {
      const { violations } = await simulate(`mutant/${number}`, options);
      if (violations.length === 0) continue;
      expect(violations.some(({ invariant }) => breaks.includes(invariant))).toBe(true);
      return;
    }
    throw new Error(`none of ${histories} histories violates anything`);
  });
});
