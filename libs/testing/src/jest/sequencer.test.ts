import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { expect, test } from "@jest/globals";
import { longest } from "./sequencer.ts";

const root = resolve(import.meta.dirname, "../../../..");

test("every file that is named to go first is there", () => {
  expect(longest.filter((path) => !existsSync(join(root, path)))).toEqual([]);
});
