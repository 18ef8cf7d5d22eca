import { expect, test } from "@jest/globals";
import { isProblem } from "@bowline/kernel";
import { createEnrolments, maxEnrolling } from "./enrolments.ts";

/** Enrolments whose sets are answered when the test says so. */
function start() {
  const sets: { items: readonly string[]; answer(): void; fail(): void }[] = [];
  const enrolments = createEnrolments<string, string>(
    (items) =>
      new Promise((resolve, reject) => {
        sets.push({
          items,
          answer: () => resolve(items.map((item) => `${item}!`)),
          fail: () => reject(new Error("no")),
        });
      }),
    () => 0.5,
  );
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const answerAll = async (): Promise<void> => {
    for (let at = 0; at < sets.length; at += 1) {
      sets[at]?.answer();
      await turn();
    }
  };
  return { sets, turn, answerAll, enrolments };
}

const names = (count: number): string[] => Array.from({ length: count }, (_, at) => `agent ${at}`);

test("who comes while a set of its cluster is under way shares the next one; each gets its own answer, in order", async () => {
  const { enrolments, sets, answerAll } = start();
  const answers = Promise.all(names(20).map((name) => enrolments.add("press", name)));
  expect(sets.map(({ items }) => items.length)).toEqual([1]);
  await answerAll();
  expect(await answers).toEqual(names(20).map((name) => `${name}!`));
  expect(sets.map(({ items }) => items.length)).toEqual([1, 16, 3]);
});

test("clusters do not wait for each other, and only a few have a set under way", async () => {
  const { enrolments, sets, answerAll } = start();
  const answers = Promise.all(["a", "a", "b", "c", "d", "e"].map((cluster) => enrolments.add(cluster, cluster)));
  expect(sets.map(({ items }) => items)).toEqual([["a"], ["b"], ["c"]]);
  await answerAll();
  expect(await answers).toEqual(["a!", "a!", "b!", "c!", "d!", "e!"]);
  expect(sets).toHaveLength(6);
});

test("a set that fails is repeated one by one, and costs only those that fail alone", async () => {
  const { enrolments, sets, turn } = start();
  const all = Promise.allSettled(["first", "good", "bad"].map((name) => enrolments.add("press", name)));
  sets[0]?.answer();
  await turn();
  sets[1]?.fail();
  await turn();
  sets[2]?.answer();
  await turn();
  sets[3]?.fail();
  expect((await all).map(({ status }) => status)).toEqual(["fulfilled", "fulfilled", "rejected"]);
  expect(sets.map(({ items }) => items)).toEqual([["first"], ["good", "bad"], ["good"], ["bad"]]);
});

test("more than so many at a time are told when to come again, and taken when others are through", async () => {
  const { enrolments } = start();
  let end: () => void = () => undefined;
  const waits = new Promise<void>((resolve) => (end = resolve));
  const inWork = names(maxEnrolling).map(() => enrolments.admitted(() => waits));
  const refused: unknown = await enrolments.admitted(async () => undefined).catch((error: unknown) => error);
  expect(isProblem(refused, "OVERLOADED") && refused.retryAfterMs).toBe(2_500);
  end();
  await Promise.all(inWork);
  expect(await enrolments.admitted(async () => "taken")).toBe("taken");
});
