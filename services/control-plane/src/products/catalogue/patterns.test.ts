import { expect, test } from "@jest/globals";
import { patternProblem } from "./patterns.ts";

test.each([
  ["(", "RE2"],
  ["(a)\\1", "back"],
  ["(?<n>a)\\k<n>", "back"],
  ["a(?=b)", "look"],
  ["a(?!b)", "look"],
  ["(?<=a)b", "look"],
  ["(?<!a)b", "look"],
  ["(a+)+", "repetition"],
  ["((a*)b)*", "repetition"],
  ["(?:a|b+){2,}", "repetition"],
  ["([a-z]{1,9})*", "repetition"],
  ["((a{100}){100})", "counts"],
  ["a{1001}", "1000"],
  ["(".repeat(40) + ")".repeat(40), "deep"],
  ["a\0", "control"],
  ["[", "RE2"],
  ["a)", "without"],
])("the pattern %j is refused", (source, why) => expect(patternProblem(source)).toContain(why));

test.each([
  "/a/.*",
  "/(en|de)/[^/]+",
  "(?:a|b)+",
  "(a{3})+",
  "a{2,5}",
  "[)+*(]+",
  "\\(a+\\)+",
  "[[:alpha:]]+",
  "(?i)/A",
  "\\Q(a+)+\\E",
  "(?P<x>a)b?",
])("the pattern %j is taken", (source) => expect(patternProblem(source)).toBeUndefined());

test("a pattern of any length is judged soon", () => {
  const before = process.cpuUsage(); // its own time: a machine that does other things makes no pattern slow
  for (const piece of ["(", "[", "a{9}", "\\", "(a+)", "((((a?)?)?)?)", "[[:", "\\Q"])
    patternProblem(piece.repeat(1024));
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1_000).toBeLessThan(5_000);
});
