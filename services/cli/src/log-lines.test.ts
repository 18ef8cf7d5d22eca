/** Which lines are told again after a loss. */
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { expect, test } from "@jest/globals";
import { LogEntrySchema } from "@bowline/contract/instances";
import { createLogLines } from "./log-lines.ts";

const entry = (index: number, ms?: number) =>
  create(LogEntrySchema, {
    instance: { agent: "press-1", service: "web", index, deploymentId: "deployment_1" },
    ...(ms === undefined ? {} : { time: timestampFromMs(ms) }),
  });

test("lines of one moment are counted, so that each comes once, of each instance by itself", () => {
  const lines = createLogLines();
  for (const ms of [5, 7, 7]) expect(lines.look(entry(0, ms))).toBe("fresh");
  expect(lines.look(entry(1, 9))).toBe("fresh");
  expect(lines.resume("press-1")).toBe(1000);
  expect([5, 7, 7, 7, 8].map((ms) => lines.look(entry(0, ms)))).toEqual(["told", "told", "told", "fresh", "fresh"]);
  expect([9, 9].map((ms) => lines.look(entry(1, ms)))).toEqual(["told", "fresh"]);
  lines.resume("press-1");
  expect([7, 7, 7, 8, 8].map((ms) => lines.look(entry(0, ms)))).toEqual(["told", "told", "told", "told", "fresh"]);
});

test("the rest of a long line is told or not with its beginning", () => {
  const lines = createLogLines();
  lines.look(entry(0, 5));
  lines.look(entry(0));
  lines.resume(undefined);
  expect([5, undefined, 6, undefined].map((ms) => lines.look(entry(0, ms)))).toEqual([
    "told",
    "told",
    "fresh",
    "fresh",
  ]);
});

test("where nothing of what comes again was told, lines in between may be missing, and that is said once", () => {
  const lines = createLogLines();
  lines.look(entry(0, 5));
  lines.resume(undefined);
  expect([6, 7].map((ms) => lines.look(entry(0, ms)))).toEqual(["gap", "fresh"]);
});

test("nothing is asked for again of a host that keeps no times, and as at first of one that has told nothing", () => {
  const lines = createLogLines();
  expect(lines.resume("press-1")).toBeUndefined();
  lines.look(entry(0));
  expect(lines.resume("press-1")).toBe(0);
  expect(lines.resume(undefined)).toBe(0);
  expect(lines.resume("press-2")).toBeUndefined();
});
