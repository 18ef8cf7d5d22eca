import { expect, test } from "@jest/globals";
import { systemClock, type Clock } from "@bowline/kernel";
import { createOutbox, type OutboxOptions } from "./outbox.ts";
import { watchSilence } from "./silence.ts";

type Note = { text: string; key?: string };

function outboxOf(options: Partial<OutboxOptions<Note>> = {}) {
  return createOutbox<Note>({
    encode: (note) => note,
    sizeOf: (note) => note.text.length,
    limitBytes: 10,
    maxQueued: 3,
    stallMs: 10_000,
    coalesce: (note) => note.key,
    clock: systemClock,
    stalled: () => {},
    ...options,
  });
}

async function textsOf(outbox: AsyncIterable<Note>): Promise<string[]> {
  const texts: string[] = [];
  for await (const note of outbox) texts.push(note.text);
  return texts;
}

/** A clock that stands until the test moves it. */
function heldClock(): Clock & { pass(ms: number): Promise<void> } {
  let now = 0;
  const sleepers = new Set<{ at: number; wake: () => void }>();
  return {
    now: () => now,
    monotonicMs: () => now,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        const sleeper = { at: now + ms, wake: resolve };
        sleepers.add(sleeper);
        signal?.addEventListener("abort", () => resolve(), { once: true });
        if (signal?.aborted === true) resolve();
      }),
    async pass(ms) {
      now += ms;
      for (const sleeper of sleepers) {
        if (sleeper.at > now) continue;
        sleepers.delete(sleeper);
        sleeper.wake();
      }
      for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
    },
  };
}

test("what is queued goes out in order, also after the close", async () => {
  const outbox = outboxOf();
  for (const text of ["a", "b", "c"]) expect(outbox.send({ text })).toBe("queued");
  outbox.close();
  expect(outbox.send({ text: "d" })).toBe("closed");
  expect(await textsOf(outbox)).toEqual(["a", "b", "c"]);
});

test("a full queue and a large message are refused, a coalesced one takes the place of its older", async () => {
  const outbox = outboxOf();
  expect(outbox.send({ text: "x".repeat(11) })).toBe("too-large");
  for (const [text, key] of [["1", "beat"], ["a"], ["b"]])
    expect(outbox.send({ text: text ?? "", key })).toBe("queued");
  expect(outbox.send({ text: "c" })).toBe("full");
  expect(outbox.send({ text: "2", key: "beat" })).toBe("coalesced");
  outbox.close();
  expect(await textsOf(outbox)).toEqual(["2", "a", "b"]);
});

test("the close's error follows what was queued", async () => {
  const outbox = outboxOf();
  outbox.send({ text: "last" });
  outbox.close(new Error("drained"));
  const reader = outbox[Symbol.asyncIterator]();
  expect((await reader.next()).value).toEqual({ text: "last" });
  await expect(reader.next()).rejects.toThrow("drained");
});

test("a reader that leaves closes the outbox", async () => {
  const outbox = outboxOf();
  outbox.send({ text: "a" });
  for await (const _ of outbox) break;
  expect(outbox.send({ text: "b" })).toBe("closed");
});

test("a peer that takes nothing for the stall limit ends it, one that takes slowly does not", async () => {
  const clock = heldClock();
  let stalls = 0;
  const outbox = outboxOf({ clock, stallMs: 100, stalled: () => (stalls += 1) });
  const reader = outbox[Symbol.asyncIterator]();
  for (const text of ["a", "b", "c"]) outbox.send({ text });
  await clock.pass(60);
  await reader.next();
  await clock.pass(60);
  expect(stalls).toBe(0);
  await clock.pass(60);
  expect(stalls).toBe(1);
  expect(outbox.queued).toBe(0);
});

test("silence is told once, after the limit since the last word, and the limit can change", async () => {
  const clock = heldClock();
  const told: number[] = [];
  const silence = watchSilence({ limitMs: 1_000, clock, silent: (ms) => told.push(ms) });
  await clock.pass(800);
  silence.heard();
  await clock.pass(800);
  expect(told).toEqual([]);
  silence.limit(900);
  await clock.pass(0);
  await clock.pass(100);
  expect(told).toEqual([900]);
  silence.stop();
});

test("Q1: of many that are watched together each is told by its own limit, and whoever has stopped never", async () => {
  const clock = heldClock();
  const told: string[] = [];
  const watch = (name: string, limitMs: number) => watchSilence({ limitMs, clock, silent: () => void told.push(name) });
  const silences = [watch("late", 300), watch("early", 100), watch("stopped", 100), watch("heard", 200)];
  silences[2]?.stop();
  await clock.pass(100);
  expect(told).toEqual(["early"]);
  silences[3]?.heard();
  await clock.pass(100);
  expect(told).toEqual(["early"]);
  await clock.pass(100);
  expect(told).toEqual(["early", "late", "heard"]);
  for (const silence of silences) silence.stop();
  watch("again", 50); // the loop had ended
  await clock.pass(50);
  expect(told.at(-1)).toBe("again");
});
