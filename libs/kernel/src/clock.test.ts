import { getEventListeners } from "node:events";
import { expect, test } from "@jest/globals";
import { systemClock } from "./clock.ts";

test("a sleep takes its time", async () => {
  const from = systemClock.monotonicMs();
  await systemClock.sleep(20);
  // Both ends are whole milliseconds to a timer, of a clock that some kernels move on once in a millisecond only.
  expect(systemClock.monotonicMs() - from).toBeGreaterThanOrEqual(18);
});

test("an aborted sleep ends at once, without an error", async () => {
  const stop = new AbortController();
  const asleep = systemClock.sleep(3_600_000, stop.signal);
  stop.abort();
  await asleep;
  await systemClock.sleep(3_600_000, stop.signal);
});

test("a sleep longer than a timer knows does not end at once", async () => {
  const stop = new AbortController();
  let ended = false;
  const asleep = systemClock.sleep(2 ** 31 + 5, stop.signal).then(() => (ended = true));
  await systemClock.sleep(20);
  expect(ended).toBe(false);
  stop.abort();
  await asleep;
});

test("a sleep leaves nothing on its signal", async () => {
  const stop = new AbortController();
  await systemClock.sleep(1, stop.signal);
  expect(getEventListeners(stop.signal, "abort")).toHaveLength(0);
});
