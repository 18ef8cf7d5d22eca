import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { composeReasons } from "../libs/compose/src/reasons.ts";
import { composePage, composePagePath, mark } from "./compose-page.ts";

test("docs/compose.md says what the tables say (else: npm run docs:compose)", async () => {
  const page = await readFile(composePagePath, "utf8");
  expect(page.split(mark)).toHaveLength(2);
  expect(page).toBe(composePage(page));
});

test("every reason about Compose files is provoked by a test", async () => {
  const folder = join(import.meta.dirname, "../libs/compose/src");
  const tests = (await readdir(folder)).filter((name) => name.endsWith(".test.ts"));
  const texts = await Promise.all(tests.map((name) => readFile(join(folder, name), "utf8")));
  const words = new Set(texts.flatMap((text) => text.match(/\b[A-Z]+(?:_[A-Z]+)*\b/g) ?? []));
  expect(Object.keys(composeReasons).filter((reason) => !words.has(reason))).toEqual([]);
});
