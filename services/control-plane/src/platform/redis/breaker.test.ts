import { expect, test } from "@jest/globals";
import { createBreaker, failuresToOpen } from "./breaker.ts";

function breaker() {
  const told: boolean[] = [];
  return { told, ...createBreaker((open) => told.push(open)) };
}

test("B2: what was never reached is away until a probe answers, and no other answer changes that", () => {
  const it = breaker();
  expect(it.isOpen()).toBe(true);
  it.succeeded({ probe: false });
  expect(it.isOpen()).toBe(true);
  it.succeeded({ probe: true });
  expect(it.isOpen()).toBe(false);
  expect(it.told).toEqual([false]);
});

test("B3: failures in a row open it, and an answer in between starts the count again", () => {
  const it = breaker();
  it.succeeded({ probe: true });
  for (let count = 1; count < failuresToOpen; count += 1) it.failed();
  it.succeeded({ probe: false });
  for (let count = 1; count < failuresToOpen; count += 1) it.failed();
  expect(it.isOpen()).toBe(false);
  it.failed();
  expect(it.isOpen()).toBe(true);
  it.failed();
  expect(it.told).toEqual([false, true]);
});
