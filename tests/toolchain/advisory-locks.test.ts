/** Numbers of advisory locks: whoever shares one waits for the other. */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";

const root = join(import.meta.dirname, "../..");

test("no two kinds of advisory lock have the same number", () => {
  const numbers = globSync("{services,libs}/*/src/**/*.ts", { cwd: root })
    .map((file) => readFileSync(join(root, file), "utf8"))
    .flatMap((text) => [...text.matchAll(/Lock = (\d[\d_]{6,});/g)].map(([, number]) => number));
  expect(numbers.length).toBeGreaterThan(2);
  expect(numbers.filter((number, index) => numbers.indexOf(number) !== index)).toEqual([]);
});
