import { expect, test } from "@jest/globals";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { columns, parseSpan, plain, span, when } from "./text.ts";

test("spans are read as people write them", () => {
  expect(["90s", "10m", "1h30m", "7d", "500ms", "45", "2min"].map(parseSpan)).toEqual([
    90_000, 600_000, 5_400_000, 604_800_000, 500, 45_000, 120_000,
  ]);
  for (const text of ["", "x", "5 m", "-1s", "1y", "s"]) expect(parseSpan(text)).toBeUndefined();
});

test("spans are shown in one unit", () => {
  expect([0, 34_000, 3 * 60_000, 2 * 3_600_000, 3 * 86_400_000].map(span)).toEqual([
    "0 s",
    "34 s",
    "3 min",
    "2 h",
    "3 d",
  ]);
});

test("times are local with how far they are", () => {
  const now = new Date(2026, 10, 20, 9, 12);
  const at = (date: Date): string => when(timestampFromDate(date), now);
  expect(at(new Date(2026, 10, 20, 8, 40))).toBe("08:40, 32 min ago");
  expect(at(new Date(2026, 10, 20, 10, 12))).toBe("10:12, in 1 h");
  expect(at(new Date(2026, 10, 18, 8, 40))).toBe("18 Nov 08:40, 2 d ago");
  expect(at(new Date(2025, 10, 18, 8, 40))).toBe("18 Nov 2025 08:40, 367 d ago");
});

test("text from elsewhere cannot move the cursor or break the line", () => {
  expect(plain("a\u001b[2Jb\nc\u009bd")).toBe("a [2Jb c d");
});

test("columns are aligned by characters, not by bytes", () => {
  expect(
    columns([
      ["NAME", "X"],
      ["–", "1"],
      ["größer", "2"],
    ]),
  ).toEqual(["NAME    X", "–       1", "größer  2"]);
});
