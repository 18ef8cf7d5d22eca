import { isProblem } from "@bowline/kernel";
import { expect, test } from "@jest/globals";
import { agentDials, createDials, maxOpenings } from "./dials.ts";

/** Dials at a time that the test says. */
function dialling(perSecond: number, random = () => 0.5) {
  let nowMs = 0;
  const refused: string[] = [];
  const clock = { monotonicMs: () => nowMs };
  const dials = createDials({ perSecond, clock, random, refused: (limit) => void refused.push(limit) });
  return { dials, refused, pass: (ms: number) => (nowMs += ms) };
}

/** How long the caller is told to wait; 0: it was taken. */
async function waitOf(call: Promise<unknown>): Promise<number> {
  try {
    await call;
    return 0;
  } catch (error) {
    if (!isProblem(error, "OVERLOADED")) throw error;
    return error.retryAfterMs ?? Number.NaN;
  }
}

test("a second's worth of agents may dial at once; the next ones are told to come again", async () => {
  const { dials, refused, pass } = dialling(5);
  const waits: number[] = [];
  for (let agent = 0; agent < 7; agent += 1) waits.push(await waitOf(dials.count(`agent_${agent}`)));
  expect(waits).toEqual([0, 0, 0, 0, 0, 8_000, 8_000]);
  expect(refused).toEqual(["dials", "dials"]);
  pass(200); // one token
  expect(await waitOf(dials.count("agent_8"))).toBe(0);
  expect(await waitOf(dials.count("agent_9"))).toBeGreaterThan(0);
  pass(3_600_000); // no more than a second's worth is saved up
  for (let agent = 10; agent < 15; agent += 1) expect(await waitOf(dials.count(`agent_${agent}`))).toBe(0);
  expect(await waitOf(dials.count("agent_15"))).toBeGreaterThan(0);
});

test("those who are refused come again spread over seconds, and none at once", async () => {
  const { dials } = dialling(1, Math.random);
  await dials.count("agent_0");
  const waits: number[] = [];
  for (let agent = 1; agent <= 200; agent += 1) waits.push(await waitOf(dials.count(`agent_${agent}`)));
  expect(Math.min(...waits)).toBeGreaterThanOrEqual(1_000);
  expect(Math.max(...waits)).toBeLessThanOrEqual(15_000);
  expect(new Set(waits.map((wait) => Math.floor(wait / 1_000))).size).toBeGreaterThan(10);
});

test("one agent in a tight loop is slowed and takes nothing from the others", async () => {
  const { dials, refused } = dialling(1_000);
  for (let dial = 0; dial < agentDials.count; dial += 1) expect(await waitOf(dials.count("agent_loop"))).toBe(0);
  for (let dial = 0; dial < 2_000; dial += 1) {
    expect(await waitOf(dials.count("agent_loop"))).toBeGreaterThan(8_000); // the window's rest, and the jitter
  }
  expect(new Set(refused)).toEqual(new Set(["agent-dials"]));
  expect(await waitOf(dials.count("agent_other"))).toBe(0);
});

test("openings in work are bounded, and their end makes room, also that of one that failed", async () => {
  const { dials, refused } = dialling(1);
  const gate = Promise.withResolvers<void>();
  const steps = Array.from({ length: maxOpenings }, () => waitOf(dials.working(() => gate.promise)));
  expect(await waitOf(dials.working(async () => undefined))).toBe(8_000);
  expect(refused).toEqual(["openings"]);
  gate.resolve();
  await Promise.all(steps);
  await expect(dials.working(() => Promise.reject(new Error("as it was")))).rejects.toThrow("as it was");
  const again = Array.from({ length: maxOpenings }, () => waitOf(dials.working(async () => undefined)));
  expect(new Set(await Promise.all(again))).toEqual(new Set([0]));
});

test("with 0 dials per second there is no rate, of one agent neither", async () => {
  const { dials } = dialling(0);
  for (let dial = 0; dial < 500; dial += 1) expect(await waitOf(dials.count("agent_1"))).toBe(0);
});
