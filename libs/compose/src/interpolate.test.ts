import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { interpolate, InterpolationError } from "./interpolate.ts";
import { readEnvFile } from "./envfile.ts";

function run(text: string, variables: Record<string, string> = { SET: "value", EMPTY: "" }, budget = 10_000) {
  const unset: string[] = [];
  return { text: interpolate(text, { variables, unset: (name) => unset.push(name), budget }), unset };
}

test.each([
  ["$SET", "value"],
  ["${SET}", "value"],
  ["a${SET}b$SET-c", "avaluebvalue-c"],
  ["${SET:-default}", "value"],
  ["${SET-default}", "value"],
  ["${EMPTY:-default}", "default"],
  ["${EMPTY-default}", ""],
  ["${NONE:-default}", "default"],
  ["${NONE-default}", "default"],
  ["${SET:+other}", "other"],
  ["${EMPTY:+other}", ""],
  ["${EMPTY+other}", "other"],
  ["${NONE:+other}", ""],
  ["${NONE+other}", ""],
  ["${SET:?missing}", "value"],
  ["${EMPTY?missing}", ""],
  ["${NONE:-${SET}}", "value"],
  ["${NONE:-${ALSO:-deep}}", "deep"],
  ["${NONE:-a${SET}b}", "avalueb"],
  ["${NONE:-}", ""],
  ['${NONE:-{"a":1}', '{"a":1'],
  ["${NONE:-a:-b}", "a:-b"],
  ["${NONE-a?b}", "a?b"],
  ["$$SET", "$SET"],
  ["$$$SET", "$value"],
  ["$${SET}", "${SET}"],
  ["${NONE:-$$SET}", "$SET"],
  ["price: 5$", "price: 5$"],
  ["$ $1 $%", "$ $1 $%"],
])("%s becomes %s", (text, expected) => {
  expect(run(text).text).toBe(expected);
});

test("an unset variable without a default is empty, and told", () => {
  expect(run("[$NONE] [${ALSO}]")).toEqual({ text: "[] []", unset: ["NONE", "ALSO"] });
  expect(run("${NONE:-x} ${ALSO+y}").unset).toEqual([]);
});

test.each([
  ["${SET", "INTERPOLATION_INVALID"],
  ["${}", "INTERPOLATION_INVALID"],
  ["${1}", "INTERPOLATION_INVALID"],
  ["${SET/a/b}", "INTERPOLATION_INVALID"],
  ["${SET:}", "INTERPOLATION_INVALID"],
  ["${NONE:-${SET}", "INTERPOLATION_INVALID"],
  ["${NONE:?needed}", "VARIABLE_REQUIRED"],
  ["${NONE?needed}", "VARIABLE_REQUIRED"],
  ["${EMPTY:?needed}", "VARIABLE_REQUIRED"],
  ["${A:-".repeat(60) + "}".repeat(60), "TOO_DEEP"],
])("%s is refused as %s", (text, reason) => {
  expect(() => run(text)).toThrow(expect.objectContaining({ reason }));
});

test("the message of a required variable is the file's own, interpolated", () => {
  expect(() => run("${NONE?set it like $SET}")).toThrow("the variable NONE is not set: set it like value");
  expect(() => run("${EMPTY:?}")).toThrow("the variable EMPTY is empty");
});

test("a prototype's fields are no variables", () => {
  expect(run("${constructor:-none}${__proto__:-none}").text).toBe("nonenone");
});

test("what it makes is bounded", () => {
  const big = { A: "x".repeat(1000) };
  expect(() => run("$A".repeat(100), big)).toThrow(expect.objectContaining({ reason: "TOO_LARGE" }));
});

test("whatever the text, nothing else is thrown, and text without dollars stays", () => {
  const parts = fc.constantFrom("$", "{", "}", "A", ":", "-", "?", "+", "$$", "${", "${A:-", "x", " ", "1");
  fc.assert(
    fc.property(fc.array(parts, { maxLength: 30 }), (list) => {
      const text = list.join("");
      try {
        const result = run(text, { A: "1" }).text;
        if (!text.includes("$")) expect(result).toBe(text);
      } catch (error) {
        if (!(error instanceof InterpolationError)) throw error;
      }
    }),
    { numRuns: 1000, seed: 20261122 },
  );
});

test("doubling every dollar keeps any text", () => {
  fc.assert(fc.property(fc.string(), (text) => expect(run(text.replaceAll("$", "$$$$")).text).toBe(text)));
});

test("an env file has comments, quotes, export, several lines and variables", () => {
  const text = `# comment
A=1
export B="two words" # after
C='$A stays'
D=\${A}-\${X:-x} # gone
E="line\\nbreak"
F="over
lines"
G = spaced
EMPTY=
FROM_OUTSIDE
NOT_THERE
H=a#b
`;
  expect(Object.fromEntries(readEnvFile(text, { FROM_OUTSIDE: "out" }, false))).toEqual({
    A: "1",
    B: "two words",
    C: "$A stays",
    D: "1-x",
    E: "line\nbreak",
    F: "over\nlines",
    G: "spaced",
    EMPTY: "",
    FROM_OUTSIDE: "out",
    H: "a#b",
  });
});

test("a raw env file is taken as it is", () => {
  expect(Object.fromEntries(readEnvFile(`A="x" $B #c\n`, {}, true))).toEqual({ A: `"x" $B #c` });
});

test.each([
  ["a quote that never ends", `A="${"x\n".repeat(512 * 1024)}`],
  ["backslashes before each line's end", `A="${"\\\n".repeat(512 * 1024)}`],
  ["signs of comments before what ends a line for patterns only", `A=x${" #".repeat(512 * 1024)}\u2028\nB C`],
])("an env file of a megabyte is looked at once: %s", (_, text) => {
  expect(() => readEnvFile(text, {}, false)).toThrow(/^line [12] /);
});

test("a quoted value over several lines ends where its quote does, whatever is escaped at ends of lines", () => {
  const lines = ['A="one\\', 'two\\" three', '" # gone', "B='\\", "' # gone", 'C="\\\\"', 'D="x'];
  expect(() => readEnvFile(lines.join("\n"), {}, false)).toThrow("line 7 has a quote without its end");
  expect(Object.fromEntries(readEnvFile(`${lines.join("\n")}"`, {}, false))).toEqual({
    A: 'one\\\ntwo" three\n',
    B: "\\\n",
    C: "\\",
    D: "x",
  });
});

test.each(["= 1", "A B", 'A="open', "A=${B"])("the env file line %j is refused with its number", (line) => {
  expect(() => readEnvFile(`OK=1\n${line}`, {}, false)).toThrow("line 2");
});
