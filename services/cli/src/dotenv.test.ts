import { expect, test } from "@jest/globals";
import { dotenvLine, expand, readDotenv, variablesIn } from "./dotenv.ts";

const read = (text: string, around: Record<string, string> = {}): Record<string, string> => ({
  ...readDotenv(text, around, (line) => {
    throw new Error(`line ${line}`);
  }),
});

test("lines are read with their comments, quotes and `export`", () => {
  const text = [
    "# a comment",
    "A=1 # one",
    "export B = two words ",
    "C='$A # not a comment'",
    'D="a\\nb\\"c\\""',
    'E="over',
    'two lines"',
    "F=",
    "G: yaml",
    "H=a#b",
    "",
  ];
  expect(read(text.join("\r\n"))).toEqual({
    ...{ A: "1", B: "two words", C: "$A # not a comment", D: 'a\nb"c"', E: "over\ntwo lines", F: "", G: "yaml" },
    H: "a#b",
  });
});

test("a value refers to what stands before it and to what is around, which wins; a name alone is passed on", () => {
  expect(read("A=1\nB=${A}2\nHOME\nGONE\nC=$B-$$x", { A: "9", HOME: "/h" })).toEqual({
    ...{ A: "1", B: "92", HOME: "/h", C: "92-$x" },
  });
});

test("a line that is none is told by its number", () => {
  expect(() => read("A=1\n=2")).toThrow("line 2");
  expect(() => read('A=1\n\nB="open')).toThrow("line 3");
});

test("expressions have defaults, within each other too; what is none stays", () => {
  const lookup = (name: string): string | undefined => ({ A: "a", EMPTY: "" })[name];
  const pairs: [string, string][] = [
    ["$A${A}", "aa"],
    ["${EMPTY:-x}${EMPTY-x}", "x"],
    ["${NONE:-${A:-b}}", "a"],
    ["${NONE-${ALSO:-b}}", "b"],
    ["${A:+y}${EMPTY:+n}${EMPTY+y}", "yy"],
    ["${NONE:?must be}", ""],
    ["$$A ${ $1 ${1}", "$A ${ $1 ${1}"],
  ];
  for (const [text, value] of pairs) expect([text, expand(text, lookup)]).toEqual([text, value]);
  const deep = `${"${N:-".repeat(200)}x${"}".repeat(200)}`;
  expect(expand(deep, lookup).length).toBeLessThanOrEqual(deep.length);
});

test("the names that a text refers to are found, escaped dollars are not", () => {
  expect(variablesIn("$A ${B:-${C}} $$D $${E} $1 ${_F?x}")).toEqual(["A", "B", "C", "_F"]);
});

test("a line that was made is read as its value", () => {
  for (const value of ["", "plain", "$A ${B}", 'a "quoted" \\ one', "two\nlines", "it's"])
    expect(read(dotenvLine("X", value), { A: "no" })).toEqual({ X: value });
});
