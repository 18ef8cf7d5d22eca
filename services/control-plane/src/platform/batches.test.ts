import { expect, test } from "@jest/globals";
import { createBatcher } from "./batches.ts";

const bounds = { maxWaiting: 10, overloaded: () => new Error("too many") };

test("S3: the first goes at once, later patient items gather, and an impatient one takes them along in their order", async () => {
  const sets: (readonly string[])[] = [];
  const batcher = createBatcher<string, string>(
    async (items) => {
      sets.push(items);
      return items;
    },
    { ...bounds, patient: { are: (item) => item.startsWith("receipt"), gatherMs: 600_000 } },
  );
  expect(await batcher.add("receipt 1")).toBe("receipt 1");
  const answers = ["receipt 2", "receipt 3", "result 2", "receipt 4"].map((item) => batcher.add(item));
  expect(await Promise.all(answers.slice(0, 3))).toEqual(["receipt 2", "receipt 3", "result 2"]);
  expect(await batcher.add("result 4")).toBe("result 4");
  expect(sets).toEqual([["receipt 1"], ["receipt 2", "receipt 3", "result 2"], ["receipt 4", "result 4"]]);
  expect(batcher.waiting()).toBe(0);
});

test("S3: patient items go by themselves when their time to gather has passed", async () => {
  const sets: (readonly number[])[] = [];
  const batcher = createBatcher<number, number>(
    async (items) => {
      sets.push(items);
      return items;
    },
    { ...bounds, patient: { are: () => true, gatherMs: 20 } },
  );
  await batcher.add(1);
  expect(await Promise.all([batcher.add(2), batcher.add(3)])).toEqual([2, 3]);
  expect(sets.flat()).toEqual([1, 2, 3]);
});

test("S2: a set that fails is replayed one by one, and what fails alone fails", async () => {
  const batcher = createBatcher<number, number>(async (items) => {
    if (items.includes(3)) throw new Error("three");
    return items;
  }, bounds);
  const outcomes = await Promise.allSettled([1, 2, 3, 4].map((item) => batcher.add(item)));
  expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "fulfilled", "rejected", "fulfilled"]);
});
