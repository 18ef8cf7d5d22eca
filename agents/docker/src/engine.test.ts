import { expect, test } from "@jest/globals";
import { pinned } from "./engine.ts";

test("the API's version is the smaller of the engine's and ours", () => {
  expect(pinned("1.41")).toBe("1.41");
  expect(pinned("1.44")).toBe("1.44");
  expect(pinned("1.99")).toBe("1.44");
  expect(pinned("2.0")).toBe("1.44");
});

test("an engine that is too old is refused with what is needed", () => {
  expect(() => pinned("1.9")).toThrow("needs 1.40");
  expect(() => pinned("")).toThrow("needs 1.40");
});
