/** What a fleet counts with: the ledger, percentiles, the wheel, and numbers that a seed repeats. */
import { expect, test } from "@jest/globals";
import { DeployResult_Outcome as Outcome, ResultAck_Disposition as Ack } from "@bowline/contract/agent";
import { createLedger } from "./ledger.ts";
import { seededRandom } from "./random.ts";
import { createTimes } from "./times.ts";
import { createWheel } from "./wheel.ts";

test("an attempt that is carried out twice, or recorded twice, is a violation; a lost acknowledgement is none", () => {
  const ledger = createLedger();
  ledger.effect("c1", 1);
  ledger.carried(Outcome.SUCCEEDED);
  ledger.answered("c1", 1, Ack.RECORDED);
  ledger.answered("c1", 1, Ack.ALREADY_RECORDED);
  expect(ledger.violations).toEqual([]);
  ledger.answered("c1", 1, Ack.RECORDED);
  ledger.effect("c1", 1);
  ledger.answered("c2", 1, Ack.RECORDED);
  expect(ledger.violations).toEqual([
    "c1 attempt 1 was recorded 2 times",
    "c1 attempt 1 was carried out again",
    "c2 was recorded and never carried out",
  ]);
});

test("an attempt counts as unanswered until the server says what became of its result, or a later attempt replaces it", () => {
  const ledger = createLedger();
  ledger.effect("c1", 1);
  ledger.effect("c2", 1);
  ledger.answered("c1", 1, Ack.RESEND);
  expect(ledger.totals()).toMatchObject({ commands: 2, attempts: 2, unanswered: 2 });
  ledger.effect("c1", 2);
  expect(ledger.totals()).toMatchObject({ commands: 2, attempts: 3, unanswered: 2 });
  ledger.answered("c1", 1, Ack.OBSOLETE);
  ledger.answered("c1", 2, Ack.RECORDED);
  ledger.answered("c2", 1, Ack.OBSOLETE);
  expect(ledger.totals()).toMatchObject({ recorded: 1, obsolete: 2, unanswered: 0 });
  expect(ledger.violations).toEqual([]);
});

test("percentiles are off by at most a bucket of 5 %, and the longest is exact", () => {
  const times = createTimes();
  expect(times.summary()).toBeUndefined();
  for (let ms = 1; ms <= 1000; ms += 1) times.add(ms);
  expect(times.at(0.5)).toBeGreaterThanOrEqual(500);
  expect(times.at(0.5)).toBeLessThanOrEqual(525);
  expect(times.at(0.99)).toBeGreaterThanOrEqual(990);
  expect(times.summary()).toMatchObject({ count: 1000, maxMs: 1000 });
});

test("a seed gives the same numbers again, between 0 and 1, and another seed gives others", () => {
  const [a, b, c] = [seededRandom(1), seededRandom(1), seededRandom(2)];
  const numbers = Array.from({ length: 1000 }, a);
  expect(Array.from({ length: 1000 }, b)).toEqual(numbers);
  expect(Array.from({ length: 1000 }, c)).not.toEqual(numbers);
  expect(numbers.every((number) => number >= 0 && number < 1)).toBe(true);
  expect(Math.abs(numbers.reduce((sum, number) => sum + number, 0) / 1000 - 0.5)).toBeLessThan(0.05);
});

test("a wheel calls in the order of what is due and never early, leaves out what was cancelled, and wakes sleepers when it stops", async () => {
  const wheel = createWheel();
  const called: string[] = [];
  const from = performance.now();
  let secondAt = 0;
  wheel.after(10, () => called.push("cancelled")).cancel();
  // Far apart: whoever stands still between the two calls makes the later one due later.
  wheel.after(1_000, () => {
    called.push("second");
    secondAt = performance.now() - from;
  });
  wheel.after(20, () => called.push("first"));
  const asleep = wheel.sleep(3_600_000);
  await wheel.sleep(1_020);
  expect(called).toEqual(["first", "second"]);
  expect(secondAt).toBeGreaterThanOrEqual(1_000);
  wheel.after(0, () => called.push("never"));
  wheel.stop();
  await asleep;
  await wheel.sleep(3_600_000);
  expect(called).toEqual(["first", "second"]);
});
