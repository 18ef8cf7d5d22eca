import { expect, test } from "@jest/globals";
import { refuseUnlessOnce } from "../load/dispatch.ts";
import { framed, unframed } from "../load/wire.ts";
import { readArguments, UsageError } from "./arguments.ts";
import { judge, ratios } from "./figures.ts";
import { interleaved } from "./rounds.ts";
import { quantile, seeded, shuffled, spreadOf } from "./statistics.ts";

const figure = { id: "f", what: "ours ÷ theirs" };

test("the median of the rounds decides, on either side of a limit", () => {
  const rounds = [0.1, 0.6, 0.9];
  expect(judge({ ...figure, limit: { atLeast: 0.5 }, rounds }).verdict).toBe("reached");
  expect(judge({ ...figure, limit: { atLeast: 0.61 }, rounds }).verdict).toBe("not reached");
  expect(judge({ ...figure, limit: { atMost: 0.6 }, rounds }).verdict).toBe("reached");
  expect(judge({ ...figure, limit: { atMost: 0.59 }, rounds }).verdict).toBe("not reached");
});

test("a figure without a number is not reached", () => {
  expect(judge({ ...figure, limit: { atMost: 3 }, rounds: [Number.NaN] }).verdict).toBe("not reached");
  expect(judge({ ...figure, limit: { atLeast: 0 }, rounds: [] }).verdict).toBe("not reached");
});

test("a ratio is of one round, and both sides have the same rounds", () => {
  expect(ratios([10, 30], [5, 10])).toEqual([2, 3]);
  expect(() => ratios([1], [1, 2])).toThrow("same rounds");
});

test("a spread has quartiles between neighbours", () => {
  expect(spreadOf([4, 1, 3, 2])).toEqual({ median: 2.5, min: 1, max: 4, lower: 1.75, upper: 3.25 });
  expect(quantile([7], 0.99)).toBe(7);
});

const bounds = (latest: number) => ({
  ...{ until: latest, latest, signal: new AbortController().signal, progress: () => undefined },
});

test("each round has every side once, in an order that the seed decides", async () => {
  const order = async (seed: number): Promise<string[]> => {
    const ran: string[] = [];
    const side = (name: string) => async (round: number) => {
      ran.push(`${round}${name}`);
      return { value: round };
    };
    const values = await interleaved(
      { a: side("a"), b: side("b"), c: side("c") },
      { rounds: 5, seed, ...bounds(performance.now() + 600_000) },
    );
    expect(values.b).toEqual({ value: [0, 1, 2, 3, 4] });
    return ran;
  };
  const first = await order(1);
  expect(first.toSorted()).toEqual(
    ["a", "b", "c"].flatMap((name) => [0, 1, 2, 3, 4].map((n) => `${n}${name}`)).toSorted(),
  );
  expect(await order(1)).toEqual(first);
  expect(await order(2)).not.toEqual(first);
  expect(shuffled([1, 2, 3], seeded(3)).toSorted((a, b) => a - b)).toEqual([1, 2, 3]);
});

test("no round begins after the time is over, but three do", async () => {
  let ran = 0;
  const side = async (): Promise<Record<string, number>> => ({ value: (ran += 1) });
  const { a } = await interleaved(
    { a: side },
    { rounds: 9, seed: 1, ...bounds(performance.now() + 600_000), until: 0 },
  );
  expect(a["value"]).toEqual([1, 2, 3]);
});

test("a run of which no round ends in time is void", async () => {
  const never = () => new Promise<Record<string, number>>(() => undefined);
  await expect(interleaved({ never }, { rounds: 3, seed: 1, ...bounds(performance.now()) })).rejects.toThrow("void");
});

test("a run with a lost, doubled or repeated result is void", () => {
  const once = new Map([
    ["c1", 1],
    ["c2", 1],
  ]);
  const twice = new Map([...once, ["c2", 2]] as const);
  refuseUnlessOnce(2, once, once, []);
  expect(() => refuseUnlessOnce(3, once, once, [])).toThrow("void");
  expect(() => refuseUnlessOnce(2, once, twice, [])).toThrow("void");
  expect(() => refuseUnlessOnce(2, twice, once, [])).toThrow("void");
  expect(() => refuseUnlessOnce(2, once, once, ["an agent's stream ended"])).toThrow("stream ended");
});

test("messages of the load are whole wherever the network cuts them", () => {
  const messages = [Buffer.from(""), Buffer.from("one"), Buffer.alloc(20, 7)];
  const bytes = Buffer.concat(messages.map(framed));
  for (let at = 0; at <= bytes.length; at += 1) {
    const heard: Buffer[] = [];
    const split = unframed((message) => heard.push(Buffer.from(message)));
    split(bytes.subarray(0, at));
    split(bytes.subarray(at));
    expect(heard).toEqual(messages);
  }
});

test("arguments are checked, and the short form has its own number of rounds", () => {
  expect(readArguments(["dispatch", "--quick", "--seed", "3"])).toMatchObject({
    scenario: "dispatch",
    rounds: 2,
    seed: 3,
  });
  expect(readArguments(["dispatch"])).toMatchObject({ rounds: 7, quick: false });
  for (const wrong of [
    [],
    ["a", "b"],
    ["a", "--rounds", "0"],
    ["a", "--rounds", "x"],
    ["a", "--seed", "-1"],
    ["a", "--no"],
  ])
    expect(() => readArguments(wrong)).toThrow(UsageError);
});
