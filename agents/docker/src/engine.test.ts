import { expect, test } from "@jest/globals";
import { pinned } from "./engine.ts";

test("the API's version is the smaller of the engine's and ours", () => {
  expect(pinned("1.41")).toBe("1.41");
  expect(pinned("1.44")).toBe("1.44");
  expect(pinned("1.99")).toBe("1.44");
  expect(pinned("2.0")).toBe("1.44");
});

test("an engine that is too old or too new is refused with what both speak", () => {
  expect(() => pinned("1.9")).toThrow("speaks 1.40 to 1.44: the engine is too old");
  expect(() => pinned("")).toThrow("the engine is too old");
  expect(() => pinned("1.60", "1.45")).toThrow(
    "the Docker Engine offers API 1.45 to 1.60, this agent speaks 1.40 to 1.44: this agent is too old",
  );
  expect(pinned("1.60", "1.44")).toBe("1.44");
});
