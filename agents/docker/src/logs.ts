/**
 * What a container wrote, as the engine keeps it: bounded by its log options.
 *
 * Lines carry the engine's time while they are read, so that a follower goes on
 * behind the last one after a restart of the container, and in the container
 * that took its place.
 */
import type { Readable } from "node:stream";
import { systemClock } from "@bowline/kernel";
import { EngineError, type Engine } from "./engine.ts";

/** Of a failure's message. */
const tailLines = 20;
const tailBytes = 2_000;

/** How often a follower looks whether its container runs again. */
const followMs = 200;

/** Bytes before a frame: stream, three zeros, length. */
const headBytes = 8;

/** The last lines that a container wrote since `since` (an engine's time), as text for a message. */
export async function tailOf(engine: Engine, container: string, since: string | undefined): Promise<string> {
  const signal = AbortSignal.timeout(5_000);
  const query = { tail: tailLines, ...(since === undefined ? {} : { since: secondsOf(since) }) };
  const parts: Buffer[] = [];
  for await (const { content } of read(engine, container, query, signal)) parts.push(content);
  return Buffer.concat(parts).subarray(-tailBytes).toString("utf8").trim();
}

/** The last `lines` lines, then what follows while `follow`, until `signal` aborts or there is no container any more. */
export async function* readLog(
  engine: Engine,
  current: () => string | undefined,
  { lines, follow }: { lines: number; follow: boolean },
  signal: AbortSignal,
): AsyncIterable<Uint8Array> {
  let container = current();
  let query: Record<string, string | number | boolean> = { tail: lines };
  let last: string | undefined;
  while (!signal.aborted && container !== undefined) {
    const startedMs = Date.now();
    try {
      for await (const { time, content } of read(engine, container, { ...query, follow }, signal)) {
        last = time;
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
    if (next !== container) query = {};
    else query = { since: last === undefined ? startedMs / 1000 : afterTime(last) };
    container = next;
  }
}

/** Lines with their times. A line that the engine had to split comes in parts. */
async function* read(
  engine: Engine,
  container: string,
  query: Record<string, string | number | boolean>,
  signal: AbortSignal,
): AsyncIterable<{ time: string; content: Buffer }> {
  const stream = await engine.stream("GET", `/containers/${container}/logs`, {
    query: { stdout: true, stderr: true, timestamps: true, ...query },
    signal,
  });
  for await (const frame of frames(stream, signal)) {
    const blank = frame.indexOf(32);
    if (blank >= 0) yield { time: frame.toString("latin1", 0, blank), content: frame.subarray(blank + 1) };
  }
}

async function* frames(stream: Readable, signal: AbortSignal): AsyncIterable<Buffer> {
  let held: Buffer = Buffer.alloc(0);
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
      while (held.length >= headBytes && held.length >= headBytes + held.readUInt32BE(4)) {
        const end = headBytes + held.readUInt32BE(4);
        yield held.subarray(headBytes, end);
        held = held.subarray(end);
      }
    }
  } catch (error) {
    if (!signal.aborted) throw new EngineError(0, `the log was cut: ${String(error)}`);
  }
}

/** `2026-11-22T03:00:00.123456789Z` as seconds with nine decimals. */
function secondsOf(time: string): string {
  const nanoseconds = (/\.(\d{1,9})/.exec(time)?.[1] ?? "").padEnd(9, "0");
  return `${Math.floor(Date.parse(time) / 1000)}.${nanoseconds}`;
}

/** One nanosecond later. */
function afterTime(time: string): string {
  const [seconds = "0", nanoseconds = "0"] = secondsOf(time).split(".");
  const next = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds) + 1n;
  return `${next / 1_000_000_000n}.${String(next % 1_000_000_000n).padStart(9, "0")}`;
}
