import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { MAX_DEPTH, MAX_ITEMS, MAX_TEXT_CHARS } from "./limits.ts";
import { parseCompose } from "./parse.ts";
import { newBudget, readYaml } from "./read.ts";
import { Report, Stopped } from "./report.ts";
import { plain, type Plain } from "./tree.ts";

function read(text: string): { values: Plain[]; report: Report } {
  const report = new Report();
  try {
    return { values: readYaml("f.yaml", text, newBudget(), report).map(plain), report };
  } catch (error) {
    if (!(error instanceof Stopped)) throw error;
    return { values: [], report };
  }
}

const reasonsOf = (text: string) => read(text).report.errors.map(({ reason }) => reason);

test("anchors, aliases and merge keys give what stands behind them", () => {
  const { values, report } = read(`
x-base: &base {a: 1, b: 2}
x-other: &other {b: 3, c: 4}
one: {<<: *base, b: 9}
two: {<<: [*base, *other]}
three: *base
`);
  expect(report.errors).toEqual([]);
  expect(values).toEqual([
    {
      "x-base": { a: 1, b: 2 },
      "x-other": { b: 3, c: 4 },
      one: { b: 9, a: 1 },
      two: { a: 1, b: 2, c: 4 },
      three: { a: 1, b: 2 },
    },
  ]);
});

test("an alias means the nearest anchor of its name above it", () => {
  expect(read("a: &x 1\nb: *x\nc: &x 2\nd: *x\n").values).toEqual([{ a: 1, b: 1, c: 2, d: 2 }]);
});

test("only a plain << merges", () => {
  expect(read('"<<": 1\n').values).toEqual([{ "<<": 1 }]);
});

test("a key that stands twice is an error with both its path and its line", () => {
  const { report } = read("a:\n  b: 1\n  b: 2\n");
  expect(report.errors).toMatchObject([
    { reason: "YAML_DUPLICATE_KEY", path: "a.b", line: 3, column: 3, file: "f.yaml" },
  ]);
});

test("words of YAML 1.1 stay words, as in YAML 1.2", () => {
  expect(read("[yes, no, on, off, true, 0x10, 012, 1.10, ~]").values).toEqual([
    ["yes", "no", "on", "off", true, 16, 12, 1.1, null],
  ]);
});

test.each([
  ["a: [1", "YAML_INVALID"],
  ["a: b: c", "YAML_INVALID"],
  ["\ta: 1", "YAML_INVALID"],
  ["a: \0", "YAML_INVALID"],
  ["? [a]\n: 1", "YAML_INVALID"],
  ["a: *b", "YAML_ALIAS_INVALID"],
  ["a: &a [*a]", "YAML_ALIAS_INVALID"],
  ["a: &a\n  <<: *a", "YAML_ALIAS_INVALID"],
  ["a: {<<: 1}", "YAML_ALIAS_INVALID"],
  ["a: !python/object x", "YAML_TAG_UNKNOWN"],
])("%j is refused as %s", (text, reason) => {
  expect(reasonsOf(text)).toContain(reason);
});

test("a billion laughs are refused, not expanded", () => {
  const lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"];
  for (let level = 1; level < 10; level += 1)
    lines.push(`a${level}: &a${level} [${Array.from({ length: 10 }, () => `*a${level - 1}`).join(", ")}]`);
  expect(reasonsOf(lines.join("\n"))).toEqual(["TOO_MANY"]);
});

test.each([
  ["brackets", "[".repeat(100_000)],
  ["braces", "{a: ".repeat(50_000)],
  ["dashes", "- ".repeat(100_000)],
  ["question marks", "? ".repeat(100_000)],
  ["indentation", Array.from({ length: 700 }, (_, depth) => `${" ".repeat(depth)}a:`).join("\n")],
  [
    "aliases of aliases",
    "a0: &a0 [1]\n" + Array.from({ length: MAX_DEPTH + 1 }, (_, n) => `a${n + 1}: &a${n + 1} [*a${n}]\n`).join(""),
  ],
])("nesting by %s is refused before it costs much", (_, text) => {
  expect(reasonsOf(text)).toEqual(["TOO_DEEP"]);
});

test("what is too long is refused: the text, its signs, its lists", () => {
  const one = (text: string) =>
    parseCompose({ name: "x", files: [{ name: "f", text }] }).errors.map(({ reason }) => reason);
  expect(one("#".repeat(MAX_TEXT_CHARS + 1))).toEqual(["TOO_LARGE"]);
  expect(one('"'.repeat(300_000))).toEqual(["TOO_LARGE"]);
  expect(one("#\n".repeat(200_000))).toEqual(["TOO_LARGE"]);
  expect(one(`a: [${"1,".repeat(MAX_ITEMS + 1)}]`)).toEqual(["TOO_MANY"]);
});

test("no text makes the reader throw", () => {
  const signs = fc.constantFrom(
    "a",
    ":",
    " ",
    "\n",
    "-",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a",
    "*a",
    "!",
    "?",
    "|",
    ">",
    '"',
    "'",
    "#",
    "<<",
    "%",
    "---",
    "\t",
  );
  fc.assert(
    fc.property(fc.array(signs, { maxLength: 40 }), (parts) => {
      read(parts.join(""));
    }),
    { numRuns: 300, seed: 20261122 },
  );
});
