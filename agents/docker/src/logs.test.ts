import { Readable } from "node:stream";
import { expect, test } from "@jest/globals";
import { frames, lines } from "./logs.ts";

const time = (second: number): string => `2026-11-22T03:00:0${second}.123456789Z`;
const never = new AbortController().signal;

async function* inPieces(text: string, bytes: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < text.length; at += bytes) yield Buffer.from(text.slice(at, at + bytes));
}

test("lines of a terminal keep their times, however they are cut on the way", async () => {
  const text = `${time(1)} one\r\n${time(2)} \r\n${time(3)} three words here\r\n${time(4)} no end`;
  for (const bytes of [1, 7, 31, 500]) {
    const read: string[] = [];
    for await (const line of lines(inPieces(text, bytes), never)) read.push(`${line.time}|${String(line.content)}`);
    expect(read).toEqual([
      `${time(1)}|one\r\n`,
      `${time(2)}|\r\n`,
      `${time(3)}|three words here\r\n`,
      `${time(4)}|no end`,
    ]);
  }
});

test("the parts of a long line are one again, and a line without an end is not kept", async () => {
  const part = "x".repeat(16 * 1024);
  const text = `${time(1)} ${part}${time(1)} ${part}${time(2)} rest\r\n${time(3)} ${part.repeat(8)}`;
  let content = "";
  let longest = 0;
  for await (const line of lines(inPieces(text, 1000), never)) {
    content += String(line.content);
    longest = Math.max(longest, line.content.length);
  }
  expect(content).toBe(`${part}${part}rest\r\n${part.repeat(8)}`);
  expect(longest).toBe(part.length);
});

test("what has no frames is refused instead of collected", async () => {
  const stream = Readable.from([Buffer.from(`${time(1)} a terminal's line\r\n`)]);
  await expect(async () => {
    for await (const { bytes } of frames(stream, never)) expect(bytes).toBeUndefined();
  }).rejects.toThrow("no frames");
});
