import { expect, test } from "@jest/globals";
import { type Stage, startStages } from "./stages.ts";

function recordedStages(...names: string[]): { log: string[]; stages: Stage[] } {
  const log: string[] = [];
  const stages = names.map((name): Stage => ({
    name,
    stopWithinMs: 60_000,
    async start() {
      log.push(`start ${name}`);
      return async () => {
        log.push(`stop ${name}`);
      };
    },
  }));
  return { log, stages };
}

test("stages stop in the reverse of the order in which they started", async () => {
  const { log, stages } = recordedStages("database", "sessions", "port");
  const stop = await startStages(stages);
  const ends = await stop();
  expect(log).toEqual([
    ...["start database", "start sessions", "start port"],
    ...["stop port", "stop sessions", "stop database"],
  ]);
  expect(ends.map((end) => [end.name, end.outcome])).toEqual([
    ["port", "stopped"],
    ["sessions", "stopped"],
    ["database", "stopped"],
  ]);
});

test("a stage that fails to start leaves nothing running", async () => {
  const { log, stages } = recordedStages("database", "port");
  const fails: Stage = { name: "broken", stopWithinMs: 1, start: () => Promise.reject(new Error("port in use")) };
  await expect(startStages([stages[0]!, fails, stages[1]!])).rejects.toThrow("port in use");
  expect(log).toEqual(["start database", "stop database"]);
});

test("a stop that hangs is given up after its bound, and the others still stop", async () => {
  const { log, stages } = recordedStages("database");
  const hangs: Stage = { name: "hangs", stopWithinMs: 5, start: async () => () => new Promise(() => {}) };
  const stop = await startStages([...stages, hangs]);
  expect((await stop()).map((end) => end.outcome)).toEqual(["overdue", "stopped"]);
  expect(log).toEqual(["start database", "stop database"]);
});

test("a stop that fails is reported, and the others still stop", async () => {
  const { log, stages } = recordedStages("database");
  const error = new Error("broken pipe");
  const fails: Stage = { name: "fails", stopWithinMs: 60_000, start: async () => () => Promise.reject(error) };
  const stop = await startStages([...stages, fails]);
  expect(await stop()).toMatchObject([
    { name: "fails", outcome: "failed", error },
    { name: "database", outcome: "stopped" },
  ]);
  expect(log).toEqual(["start database", "stop database"]);
});

test("a stop that is asked for twice happens once", async () => {
  const { log, stages } = recordedStages("database");
  const stop = await startStages(stages);
  const [first, second] = await Promise.all([stop(), stop()]);
  expect(second).toBe(first);
  expect(log).toEqual(["start database", "stop database"]);
});

test("an abort during the start stops what has started", async () => {
  const { log, stages } = recordedStages("database", "port");
  const signal = AbortSignal.abort(new Error("interrupted"));
  await expect(startStages(stages, { signal })).rejects.toThrow("interrupted");
  const control = new AbortController();
  const aborts: Stage = {
    name: "aborts",
    stopWithinMs: 1,
    async start() {
      control.abort(new Error("interrupted"));
      return async () => {};
    },
  };
  await expect(startStages([stages[0]!, aborts, stages[1]!], { signal: control.signal })).rejects.toThrow(
    "interrupted",
  );
  expect(log).toEqual(["start database", "stop database"]);
});
