/**
 * What an instance writes: one file that the process holds open and appends to,
 * and the part before it, both bounded.
 *
 * G1: at most `maxBytes` stay of each of the two while an agent runs. The size
 *     is looked at once a second, and a process may write more in between;
 *     without an agent it grows, and is cut when one returns.
 * G2: positions count from the first byte ever written, so that a reader keeps
 *     its place over a cut.
 *
 * Cutting copies and truncates, because nobody can make a process open another
 * file. What is written between those two steps is lost; they are two system
 * calls apart.
 */
import { closeSync, copyFileSync, fstatSync, openSync, readSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { systemClock } from "@bowline/kernel";

/** Read and yielded at once; a follower of a large log holds no more of it. */
const chunkBytes = 64 * 1024;

/** How often a follower looks for more: people don't see the difference to at once. */
const followMs = 200;

export interface LogFile {
  readonly path: string;
  /** Position after the last byte. */
  end(): number;
  /** Keeps the bound (G1). */
  cut(): void;
  /** Position at which the last `lines` lines begin. */
  tail(lines: number): number;
  /** Bytes from `position` on, at most 64 KiB, and the position after them; a position before what is kept moves up. */
  read(position: number): { bytes: Uint8Array; next: number };
}

/** Opens the log at `path`; the part before it is at `path` + `.1`. */
export function openLog(path: string, maxBytes: number): LogFile {
  const earlier = `${path}.1`;
  let base = size(earlier); // G2: position of the first byte of `path`

  const log: LogFile = {
    path,
    end: () => base + size(path),
    cut() {
      const bytes = size(path);
      if (bytes <= maxBytes) return;
      if (bytes <= 2 * maxBytes) copyFileSync(path, earlier);
      else writeFileSync(earlier, readAt(path, bytes - maxBytes, maxBytes)); // grew without an agent
      truncateSync(path, 0);
      base += bytes;
    },
    tail(lines) {
      const first = base - size(earlier);
      let position = log.end();
      let found = 0;
      // The newline that ends the last line does not begin another.
      let before = position - 1;
      while (position > first) {
        // A read ends where the earlier part ends, so a step must not cross that place.
        const from = Math.max(first, position > base ? base : first, position - chunkBytes);
        const { bytes } = log.read(from);
        const chunk = bytes.subarray(0, position - from);
        for (let at = chunk.length - 1; at >= 0; at -= 1) {
          if (chunk[at] !== 10 || from + at >= before) continue;
          found += 1;
          if (found === lines) return from + at + 1;
        }
        if (chunk.length === 0) break;
        position = from;
      }
      return lines === 0 ? log.end() : first;
    },
    read(position) {
      const first = base - size(earlier);
      const from = Math.min(Math.max(position, first), log.end());
      const bytes =
        from < base
          ? readAt(earlier, from - first, Math.min(chunkBytes, base - from))
          : readAt(path, from - base, chunkBytes);
      return { bytes, next: from + bytes.length };
    },
  };
  return log;
}

/** The last lines from `position` on, at most `maxBytes` of them, as text for a message. */
export function excerpt(log: LogFile, position: number, lines: number, maxBytes: number): string {
  const from = Math.max(position, log.tail(lines), log.end() - maxBytes);
  const first = log.read(from);
  const second = log.read(first.next); // a cut in the middle makes two reads of it
  return Buffer.concat([first.bytes, second.bytes]).toString("utf8").trim();
}

/**
 * The last `lines` lines, then what follows while `follow`, until `signal`
 * aborts or `current` says that the log is gone. `current` is asked again each
 * time, because an update gives the instance another log.
 */
export async function* readLog(
  current: () => LogFile | undefined,
  options: { lines: number; follow: boolean },
  signal: AbortSignal,
): AsyncIterable<Uint8Array> {
  let log = current();
  if (log === undefined) return;
  let position = log.tail(options.lines);
  while (!signal.aborted) {
    const { bytes, next } = log.read(position);
    position = next;
    if (bytes.length > 0) {
      yield bytes;
      continue;
    }
    if (!options.follow) return;
    const newest = current();
    if (newest === undefined) return;
    if (newest !== log) [log, position] = [newest, 0];
    else await systemClock.sleep(followMs, signal);
  }
}

function size(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

function readAt(path: string, offset: number, length: number): Uint8Array {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch {
    return new Uint8Array(); // nothing was written yet, or it is removed already
  }
  try {
    const buffer = Buffer.alloc(Math.max(0, Math.min(length, fstatSync(file).size - offset)));
    return buffer.subarray(0, readSync(file, buffer, 0, buffer.length, offset));
  } finally {
    closeSync(file);
  }
}
