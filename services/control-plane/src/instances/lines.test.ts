import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { createLineReader } from "./lines.ts";

const texts = (lines: { text: string }[]): string[] => lines.map(({ text }) => text);

test("lines are the same, however their bytes were cut", () => {
  const line = fc.string({ unit: fc.constantFrom("a", "é", "🙂", " ", "漢"), maxLength: 20 });
  fc.assert(
    fc.property(fc.array(line, { maxLength: 8 }), fc.array(fc.nat(400), { maxLength: 6 }), (lines, cuts) => {
      const bytes = Buffer.from(lines.map((text) => `${text}\n`).join(""));
      const reader = createLineReader(false);
      const at = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)).toSorted((a, b) => a - b), bytes.length];
      const read = at.slice(1).flatMap((end, number) => reader.feed(bytes.subarray(at[number], end)));
      expect(texts([...read, ...reader.rest()])).toEqual(lines);
    }),
  );
});

test("a line without an end comes in parts, and no character is cut", () => {
  const reader = createLineReader(false);
  const text = "漢".repeat(40_000);
  const lines = reader.feed(Buffer.from(text));
  expect(lines.length).toBeGreaterThan(2);
  expect(texts([...lines, ...reader.rest()]).join("")).toBe(text);
});

test("the last line counts also where no line break follows", () => {
  const reader = createLineReader(false);
  expect(texts(reader.feed(Buffer.from("one\r\ntwo")))).toEqual(["one"]);
  expect(texts(reader.rest())).toEqual(["two"]);
  expect(reader.rest()).toEqual([]);
});

test("a line's time is told apart from it where there is one", () => {
  const reader = createLineReader(true);
  expect(reader.feed(Buffer.from("2026-11-22T03:00:00.123456789Z hello\nno time\n"))).toEqual([
    { text: "hello", time: new Date("2026-11-22T03:00:00.123Z") },
    { text: "no time" },
  ]);
});

test("what is not UTF-8 is replaced", () => {
  expect(texts(createLineReader(false).feed(Buffer.from([0x61, 0xff, 0x62, 10])))).toEqual(["a\ufffdb"]);
});
