/** The decisions in docs/decisions: numbers without gaps, and the same in a page's name and heading. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";

const folder = join(import.meta.dirname, "../../docs/decisions");

test("decisions are numbered from 0001 without gaps, and each page is headed with its number", () => {
  const pages = readdirSync(folder).toSorted();
  const numbers = pages.map((_, index) => String(index + 1).padStart(4, "0"));
  expect(pages.map((page) => page.slice(0, 4))).toEqual(numbers);
  const headings = pages.map((page) => readFileSync(join(folder, page), "utf8").split(" ", 2).join(" "));
  expect(headings).toEqual(numbers.map((number) => `# ${number}`));
});
