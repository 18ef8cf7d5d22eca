import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "@jest/globals";
import { systemClock } from "./clock.ts";
import { createHandoff, merged, withIdle } from "./flows.ts";

async function* counted(name: string, upTo: number, taken: string[]): AsyncGenerator<string> {
  for (let at = 1; at <= upTo; at += 1) {
    taken.push(`${name}${at}`);
    yield `${name}${at}`;
  }
}

async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}

test("merged sources all arrive whole, each in its order", async () => {
  const items = await all(merged([counted("a", 20, []), counted("b", 3, []), counted("c", 0, [])]));
  expect(items.filter((item) => item.startsWith("a"))).toEqual(Array.from({ length: 20 }, (_, at) => `a${at + 1}`));
  expect(items.filter((item) => item.startsWith("b"))).toEqual(["b1", "b2", "b3"]);
});

test("of merged sources no more than one item each is read ahead", async () => {
  const taken: string[] = [];
  const iterator = merged([counted("a", 100, taken), counted("b", 100, taken)]);
  for (let read = 0; read < 10; read += 1) await iterator.next();
  expect(taken.length).toBeLessThanOrEqual(12);
});

/** Objects, remembered only as long as somebody else does. */
async function* remembered(refs: WeakRef<object>[], count: number): AsyncGenerator<object> {
  for (let at = 0; at < count; at += 1) {
    const item = { at };
    refs.push(new WeakRef(item));
    yield item;
  }
}

/** How many of them are still held, once all that can be has been collected. */
async function stillHeld(refs: readonly WeakRef<object>[]): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  await systemClock.sleep(1, new AbortController().signal); // references are kept until the turn of the loop is over
  collect();
  return refs.filter((ref) => ref.deref() !== undefined).length;
}

test("what was read of a busy source is let go while another one is silent", async () => {
  const refs: WeakRef<object>[] = [];
  let stop = (): void => undefined;
  async function* silent(): AsyncGenerator<object> {
    await new Promise<void>((resolve) => (stop = resolve));
    yield {};
  }
  const iterator = merged([remembered(refs, 101), silent()]);
  for (let read = 0; read < 100; read += 1) await iterator.next();
  expect(await stillHeld(refs)).toBeLessThan(5);
  stop();
  expect(await all({ [Symbol.asyncIterator]: () => iterator })).toHaveLength(2);
});

test("who leaves merged sources leaves each of them, also the one whose item was the last", async () => {
  const left: string[] = [];
  async function* counting(name: string): AsyncGenerator<string> {
    try {
      for (;;) yield name;
    } finally {
      left.push(name);
    }
  }
  for await (const item of merged([counting("a"), counting("b")])) if (item === "b") break;
  await systemClock.sleep(1, new AbortController().signal);
  expect(left.toSorted()).toEqual(["a", "b"]);
});

test("a source that fails fails the merged ones", async () => {
  async function* failing(): AsyncGenerator<string> {
    yield "one";
    throw new Error("it broke");
  }
  await expect(all(merged([failing(), counted("a", 2, [])]))).rejects.toThrow("it broke");
});

test("a quiet source says so, and loses nothing for it", async () => {
  let go = (): void => undefined;
  async function* quiet(): AsyncGenerator<string> {
    await new Promise<void>((resolve) => (go = resolve));
    yield "late";
  }
  const idle = (): string => {
    go();
    return "idle";
  };
  const items = await all(withIdle(quiet(), 1, idle, systemClock));
  expect(items[0]).toBe("idle");
  expect(items.at(-1)).toBe("late");
});

test("a handoff gives each item when it is asked for, and its writer waits until then", async () => {
  const handoff = createHandoff<number>();
  const said: string[] = [];
  const writing = (async () => {
    for (const item of [1, 2, 3]) {
      expect(await handoff.put(item)).toBe(true);
      said.push(`taken ${item}`);
    }
    handoff.end();
  })();
  const iterator = handoff[Symbol.asyncIterator]();
  expect(await iterator.next()).toEqual({ done: false, value: 1 });
  expect(said).toEqual([]); // the reader has it, and may still be busy with it
  expect(await iterator.next()).toEqual({ done: false, value: 2 });
  expect(said).toEqual(["taken 1"]);
  expect(await all({ [Symbol.asyncIterator]: () => iterator })).toEqual([3]);
  await writing;
});

test("a writer whose reader is gone is told, before and after", async () => {
  const handoff = createHandoff<number>();
  const put = handoff.put(1);
  handoff.leave();
  expect(await put).toBe(false);
  expect(await handoff.put(2)).toBe(false);
  expect(await all(handoff)).toEqual([]);
});
