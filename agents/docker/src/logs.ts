/**
 * What a container wrote, as the engine keeps it: bounded by its log options.
 *
 * Lines carry the engine's time while they are read, so that a follower goes on
 * behind the last one after a restart of the container, and in the container
 * that took its place.
 *
 * L1: what is held of an answer is bounded, whatever the engine sends.
 */
import type { Readable } from "node:stream";
import { systemClock } from "@bowline/kernel";
import type { Inspected } from "./containers.ts";
import { EngineError, type Engine } from "./engine.ts";

/** Of a failure's message. */
const tailLines = 20;
const tailBytes = 2_000;

/** How often a follower looks whether its container runs again. */
const followMs = 200;

/** Bytes before a frame: stream, three zeros, length. */
const headBytes = 8;

/** The longest that an engine sends at once are lines of 1 MB (log driver `local`); a greater length is none (L1). */
const maxFrameBytes = 1024 * 1024;

/** Of a line that is longer most log drivers make several parts, each with a time. */
const partBytes = 16 * 1024;

/** What stands before each line: nine decimals, so that all of them are as long, and a blank. */
const timePattern = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) /;
const maxTimeBytes = "2026-11-22T03:00:00.123456789+00:00 ".length;

/** Whose log is read. */
export type Written = Pick<Inspected, "Id"> & { Config: Pick<Inspected["Config"], "Tty"> };

/** The last lines that a container wrote since `since` (an engine's time), as text for a message. */
export async function tailOf(engine: Engine, container: Written, since: string | undefined): Promise<string> {
  const signal = AbortSignal.timeout(5_000);
  const query = { tail: tailLines, ...(since === undefined ? {} : { since: secondsOf(since) }) };
  const parts: Buffer[] = [];
  for await (const { content } of read(engine, container, query, signal)) parts.push(content);
  return Buffer.concat(parts).subarray(-tailBytes).toString("utf8").trim();
}

/** The last `lines` lines, then what follows while `follow`, until `signal` aborts or there is no container any more. */
export async function* readLog(
  engine: Engine,
  current: () => Written | undefined,
  { lines, follow, timestamps = false }: { lines: number; follow: boolean; timestamps?: boolean },
  signal: AbortSignal,
): AsyncIterable<Uint8Array> {
  let container = current();
  let query: Record<string, string | number | boolean> = { tail: lines };
  let last: string | undefined;
  let whole = true;
  while (!signal.aborted && container !== undefined) {
    const startedMs = Date.now();
    try {
      for await (const { time, content } of read(engine, container, { ...query, follow }, signal)) {
        if (time !== "") last = time;
        // A part of a line that had to be split goes on where the last one ended.
        if (timestamps && whole) yield Buffer.from(`${time} `);
        whole = content.at(-1) === 10;
        yield content;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof EngineError && error.status === 404)) throw error;
    }
    if (!follow) return;
    // It ended, or another has its place: everything of that one is new.
    await systemClock.sleep(followMs, signal);
    const next = current();
    if (next?.Id !== container.Id) query = {};
    else query = { since: last === undefined ? startedMs / 1000 : afterTime(last) };
    container = next;
  }
}

/** Lines of stdout since `since` (an engine's time) and what follows, until the container ends or `signal` aborts. */
export async function* followLines(
  engine: Engine,
  container: Written,
  since: string,
  signal: AbortSignal,
): AsyncIterable<string> {
  let rest = "";
  const query = { since: secondsOf(since), follow: true, stderr: false };
  for await (const { content } of read(engine, container, query, signal)) {
    const lines = (rest + content.toString("utf8")).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}

/** Lines with their times. A line that the engine had to split comes in parts. */
async function* read(
  engine: Engine,
  container: Written,
  query: Record<string, string | number | boolean>,
  signal: AbortSignal,
): AsyncIterable<{ time: string; content: Buffer }> {
  const stream = await engine.stream("GET", `/containers/${container.Id}/logs`, {
    query: { stdout: true, stderr: true, timestamps: true, ...query },
    signal,
  });
  if (container.Config.Tty) return yield* lines(stream, signal);
  for await (const { bytes } of frames(stream, signal)) {
    const blank = bytes.indexOf(32);
    if (blank >= 0) yield { time: bytes.toString("latin1", 0, blank), content: bytes.subarray(blank + 1) };
  }
}

/** What the engine sends of a terminal's log: lines with their times, without frames. */
export async function* lines(
  stream: AsyncIterable<Buffer>,
  signal: AbortSignal,
): AsyncIterable<{ time: string; content: Buffer }> {
  let held: Buffer = Buffer.alloc(0);
  let time = "";
  let begun = false; // the time of what is held is known
  for await (const chunk of uncut(stream, signal)) {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    for (;;) {
      if (!begun) {
        if (held.length < maxTimeBytes && !held.includes(10)) break; // its time has not come whole
        const found = timeAt(held);
        if (found !== undefined) [time, held] = [found, held.subarray(found.length + 1)];
        begun = true;
      }
      const end = held.subarray(0, partBytes).indexOf(10) + 1;
      if (end === 0 && held.length < partBytes + maxTimeBytes) break;
      const part = end === 0 ? partBytes : end;
      yield { time, content: held.subarray(0, part) };
      held = held.subarray(part); // L1
      begun = end === 0 && timeAt(held) === undefined;
    }
  }
  if (held.length > 0 && begun) yield { time, content: held };
}

function timeAt(bytes: Buffer): string | undefined {
  return timePattern.exec(bytes.toString("latin1", 0, maxTimeBytes))?.[1];
}

/** What the engine sends where there is no terminal: `source` 1 is stdout, 2 stderr. */
export async function* frames(stream: Readable, signal: AbortSignal): AsyncIterable<{ source: number; bytes: Buffer }> {
  let held: Buffer = Buffer.alloc(0);
  for await (const chunk of uncut(stream, signal)) {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    while (held.length >= headBytes) {
      const length = held.readUInt32BE(4);
      if (length > maxFrameBytes) throw new EngineError(0, "the stream has no frames"); // L1
      if (held.length < headBytes + length) break;
      yield { source: held[0] ?? 0, bytes: held.subarray(headBytes, headBytes + length) };
      held = held.subarray(headBytes + length);
    }
  }
}

async function* uncut(stream: AsyncIterable<Buffer>, signal: AbortSignal): AsyncIterable<Buffer> {
  try {
    yield* stream;
  } catch (error) {
    if (!signal.aborted) throw new EngineError(0, `the stream was cut: ${String(error)}`);
  }
}

/** `2026-11-22T03:00:00.123456789Z` as seconds with nine decimals. What never was is the beginning. */
function secondsOf(time: string): string {
  if (time.startsWith("0001-")) return "0";
  const nanoseconds = (/\.(\d{1,9})/.exec(time)?.[1] ?? "").padEnd(9, "0");
  return `${Math.floor(Date.parse(time) / 1000)}.${nanoseconds}`;
}

/** One nanosecond later. */
function afterTime(time: string): string {
  const [seconds = "0", nanoseconds = "0"] = secondsOf(time).split(".");
  const next = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds) + 1n;
  return `${next / 1_000_000_000n}.${String(next % 1_000_000_000n).padStart(9, "0")}`;
}
