import type { AgentTransport } from "@bowline/session";
import { expect, test } from "@jest/globals";
import { connect } from "./connect.ts";
import { createLog } from "./log.ts";
import type { SessionEnd } from "./serve.ts";
import { chooseTransport } from "./transports.ts";

/** The waits between sessions that end like this, one after the other; then the agent stops. */
async function waitsBetween(ends: readonly SessionEnd[], random: () => number): Promise<number[]> {
  const waits: number[] = [];
  const left = [...ends];
  const transport = { close() {} } as unknown as AgentTransport;
  await connect(
    {
      sign: async () => "assertion",
      choice: chooseTransport("auto"),
      dial: () => transport,
      serve: async () => left.shift() ?? { kind: "stopped" },
      clock: { now: () => 0, monotonicMs: () => 0, sleep: async (ms) => void waits.push(ms) },
      log: createLog({ format: "json", level: "silent" }),
      random,
    },
    new AbortController().signal,
  );
  return waits;
}

const overloaded = (retryAfterMs: number): SessionEnd => ({
  kind: "lost",
  reason: "OVERLOADED",
  message: "Too many agents dial at this moment.",
  retryAfterMs,
  greeted: false,
});

test("a server that has too many dials is dialled again when it said, and not before", async () => {
  expect(await waitsBetween([overloaded(9_000), overloaded(12_345)], () => 0)).toEqual([9_000, 12_345]);
});

test("where the agent's own backoff is longer than what the server says, that holds", async () => {
  const waits = await waitsBetween(
    Array.from({ length: 8 }, () => overloaded(1_000)),
    () => 0.999,
  );
  expect(waits[0]).toBeGreaterThanOrEqual(1_000);
  expect(waits.at(-1)).toBeGreaterThan(50_000);
});

test("no wait is shorter than the floor, whatever the server says", async () => {
  const drained: SessionEnd = { kind: "drained", waitMs: 0 };
  expect(await waitsBetween([overloaded(0), drained, overloaded(0)], () => 0)).toEqual([250, 250, 250]);
});
