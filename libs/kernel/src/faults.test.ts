import { afterEach, expect, test } from "@jest/globals";
import { configureFaults, crashPoint } from "./faults.ts";

const crash = (name: string): never => {
  throw new Error(`crashed at ${name}`);
};

afterEach(() => configureFaults(undefined, crash));

test("a crash point does nothing unless it is configured", () => {
  crashPoint("journal.before-rename");
  configureFaults("", crash);
  crashPoint("journal.before-rename");
  configureFaults("another.point", crash);
  crashPoint("journal.before-rename");
});

test("a configured point crashes at its first or Nth time, and others go on", () => {
  configureFaults("a.b, c-d@3", crash);
  expect(() => crashPoint("a.b")).toThrow("crashed at a.b");
  crashPoint("c-d");
  crashPoint("c-d");
  expect(() => crashPoint("c-d")).toThrow("crashed at c-d");
});

test("a point that pauses goes on when it is let, once; it is refused where nothing can pause", () => {
  const paused: string[] = [];
  configureFaults("pause:a.b@2", crash, (name) => void paused.push(name));
  for (let n = 0; n < 4; n += 1) crashPoint("a.b");
  expect(paused).toEqual(["a.b"]);
  expect(() => configureFaults("pause:a.b", crash)).toThrow(RangeError);
});

test("a setting that cannot be read is refused", () => {
  for (const setting of ["A", "a@0", "a@-1", "a@b", "a b", "@2", "wait:a"]) {
    expect(() => configureFaults(setting, crash)).toThrow(RangeError);
  }
});
