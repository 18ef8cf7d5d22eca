import { appendFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { excerpt, openLog, readLog } from "./logs.ts";
import type { LogFile } from "./logs.ts";

const fresh = (maxBytes = 1_000): LogFile => openLog(join(temporaryFolder(), "output.log"), maxBytes);
const never = new AbortController().signal;

async function last(log: LogFile, lines: number): Promise<string> {
  let text = "";
  for await (const bytes of readLog(() => log, { lines, follow: false }, never)) text += Buffer.from(bytes).toString();
  return text;
}

test("the last lines are found across a cut", async () => {
  const log = fresh(10);
  appendFileSync(log.path, "one\ntwo\nthree\n");
  log.cut();
  appendFileSync(log.path, "four\n");
  expect(await last(log, 1)).toBe("four\n");
  expect(await last(log, 2)).toBe("three\nfour\n");
  expect(await last(log, 100)).toBe("one\ntwo\nthree\nfour\n");
});

test("a last line without its end is a line", async () => {
  const log = fresh();
  appendFileSync(log.path, "one\ntwo\nthr");
  expect(await last(log, 1)).toBe("thr");
  expect(await last(log, 2)).toBe("two\nthr");
});

test("lines longer than what is read at once are whole", async () => {
  const log = fresh(1_000_000);
  const long = `${"x".repeat(150_000)}\n`;
  appendFileSync(log.path, `first\n${long}${long}`);
  expect(await last(log, 2)).toBe(long + long);
});

test("a log that grew while no agent was there is cut to its bound", () => {
  const log = fresh(1_000);
  appendFileSync(log.path, "x".repeat(50_000));
  log.cut();
  expect(statSync(log.path).size).toBe(0);
  expect(statSync(`${log.path}.1`).size).toBe(1_000);
});

test("a position stays the same byte over a cut", () => {
  const log = fresh(10);
  appendFileSync(log.path, "0123456789abcdef");
  const position = 12;
  log.cut();
  appendFileSync(log.path, "ghi");
  const first = log.read(position);
  expect(Buffer.from(first.bytes).toString()).toBe("cdef");
  expect(Buffer.from(log.read(first.next).bytes).toString()).toBe("ghi");
});

test("an excerpt is what a run wrote, at most so much of it", () => {
  const log = fresh();
  appendFileSync(log.path, "of the run before\n");
  const start = log.end();
  appendFileSync(log.path, "a\nb\nc\n");
  expect(excerpt(log, start, 10, 100)).toBe("a\nb\nc");
  expect(excerpt(log, start, 2, 100)).toBe("b\nc");
  expect(excerpt(log, start, 10, 2)).toBe("c");
});

test("a log that does not exist yet is empty", async () => {
  expect(await last(fresh(), 10)).toBe("");
});
