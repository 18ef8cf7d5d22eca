import { expect, test } from "@jest/globals";
import { createStepTimes } from "./step-times.ts";

function timed() {
  let now = 0;
  const told: [string, number][] = [];
  const times = createStepTimes({ step: (step, seconds) => told.push([step, seconds]) }, () => now);
  return { times, told, pass: (ms: number) => (now += ms) };
}

test("each step of a command is timed once, from its first push", () => {
  const { times, told, pass } = timed();
  times.pushed("a");
  pass(1_000);
  times.pushed("a");
  pass(1_000);
  times.receipted("a");
  times.receipted("a");
  pass(3_000);
  const recorded = times.reported("a");
  times.reported("a")();
  pass(500);
  recorded();
  expect(told).toEqual([
    ["push_to_receipt", 2],
    ["receipt_to_result", 3],
    ["result_to_recorded", 0.5],
  ]);
});

test("what was never pushed here is not timed, however much an agent tells of it", () => {
  const { times, told } = timed();
  for (let index = 0; index < 10_000; index += 1) {
    times.receipted(`made-up-${index}`);
    times.reported(`made-up-${index}`)();
  }
  expect(told).toEqual([]);
});

test("the oldest of many pushes without a receipt are forgotten", () => {
  const { times, told } = timed();
  for (let index = 0; index < 1_000; index += 1) times.pushed(`command-${index}`);
  times.receipted("command-0");
  times.receipted("command-999");
  expect(told).toHaveLength(1);
});
