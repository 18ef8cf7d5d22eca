/** README.md of the faults against the scenarios that there are. */
import { readFileSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { scenarios } from "../scenarios/index.ts";

const page = readFileSync(new URL("../README.md", import.meta.url), "utf8");

test("README.md lists each scenario with its title and what it tries, and says which do not stand", () => {
  const rows = [...page.matchAll(/^\| +([0-9]+) \| (.+?) +\| ([A-I ]+?) +\|$/gm)].map(([, ...cells]) => cells);
  const there = scenarios.map(({ number, title, tries }) => [String(number), title, tries.join(" ")]);
  expect(rows).toEqual(there);
  const numbers = scenarios.map(({ number }) => number);
  expect(numbers).toEqual([...new Set(numbers)].toSorted((a, b) => a - b));
  const missing = Array.from({ length: 36 }, (_, at) => at + 1).filter((number) => !numbers.includes(number));
  const said = /^Not there yet: ([0-9, ]+)\.$/m.exec(page)?.[1]?.split(", ").map(Number) ?? [];
  expect(said).toEqual(missing);
});
