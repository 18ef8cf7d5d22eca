/** docs/reliability.md against the files that it names. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";

const root = fileURLToPath(new URL("..", import.meta.url));
const page = readFileSync(new URL("../docs/reliability.md", import.meta.url), "utf8");
const read = (path: string): string => readFileSync(`${root}/${path}`, "utf8");

/** Each path on the page, with the words of a test's name that follow it. */
const named = [...page.matchAll(/`((?:tests|libs|services|agents|scripts)\/[^`]+\.ts)`(?: "([^"]+)")?/g)].map(
  ([, path = "", words]) => ({ path, words }),
);

test("each file that docs/reliability.md names exists, and has a test with the words that it quotes", () => {
  expect(named.length).toBeGreaterThan(40);
  expect(named.filter(({ path }) => !existsSync(`${root}/${path}`))).toEqual([]);
  const wrong = named.filter(
    ({ path, words }) =>
      words !== undefined &&
      !read(path)
        .split("\n")
        .some((line) => /^test|^ {2}["`]/.test(line) && line.includes(words)),
  );
  expect(wrong).toEqual([]);
});

test("each scenario that docs/reliability.md names by its number is there", () => {
  const there = new Set(
    readdirSync(`${root}/tests/faults/scenarios`).flatMap((name) => /^([0-9]{2})-/.exec(name)?.[1] ?? []),
  );
  const cited = [...page.matchAll(/\bscenarios? ([0-9]+(?:, [0-9]+)*)/g)].flatMap(([, all = ""]) => all.split(", "));
  expect(cited.length).toBeGreaterThan(10);
  expect(cited.filter((number) => !there.has(number.padStart(2, "0")))).toEqual([]);
});

test("each of the fences E1 to E7 is cited where docs/reliability.md says that it is kept", () => {
  const rows = page.split("\n").filter((line) => /^\| E\d /.test(line));
  expect(rows.map((row) => row.slice(2, 4))).toEqual(["E1", "E2", "E3", "E4", "E5", "E6", "E7"]);
  for (const row of rows) {
    const [, fence = "", , kept = ""] = row.split("|").map((cell) => cell.trim());
    const paths = [...kept.matchAll(/`([^`]+)`/g)].map(([, path = ""]) => path);
    expect(paths).not.toEqual([]);
    expect(paths.filter((path) => !new RegExp(`\\b${fence}\\b`).test(read(path)))).toEqual([]);
  }
});
