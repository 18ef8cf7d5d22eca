import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { fullJitter } from "./backoff.ts";

const bounds = { baseMs: 1_000, capMs: 60_000, floorMs: 250 };

test("every wait is between the floor and the cap, however many attempts failed", () => {
  fc.assert(
    fc.property(fc.nat(), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (attempt, random) => {
      const waitMs = fullJitter(bounds, attempt, () => random);
      return waitMs >= bounds.floorMs && waitMs <= bounds.capMs;
    }),
  );
});

test("the longest wait doubles until the cap", () => {
  const longest = [0, 1, 2, 5, 6, 5_000].map((attempt) => fullJitter(bounds, attempt, () => 1));
  expect(longest).toEqual([1_000, 2_000, 4_000, 32_000, 60_000, 60_000]);
});

test("waits are spread over the whole range", () => {
  const waits = [0, 0.5, 0.999].map((random) => fullJitter({ ...bounds, floorMs: 0 }, 3, () => random));
  expect(waits).toEqual([0, 4_000, 7_992]);
});

test("bounds that contradict each other are a mistake of the caller", () => {
  expect(() => fullJitter({ baseMs: 10, capMs: 5, floorMs: 0 }, 0)).toThrow(RangeError);
  expect(() => fullJitter({ baseMs: 10, capMs: 50, floorMs: 20 }, 0)).toThrow(RangeError);
  expect(() => fullJitter(bounds, Number.NaN)).toThrow(RangeError);
});
