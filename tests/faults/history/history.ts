/** The record of one scenario: append only, a line of JSON per entry, in a file that stays where something was violated. */
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Entry, Event } from "./events.ts";

export interface History {
  file: string;
  entries(): readonly Entry[];
  /** `at`: when it happened, where that is not now. */
  append(event: Event, at?: number): void;
}

export function createHistory(file: string): History {
  mkdirSync(dirname(file), { recursive: true });
  const entries: Entry[] = [];
  return {
    file,
    entries: () => entries,
    append(event, at = Date.now()) {
      const entry: Entry = { at: Math.round(at * 1_000) / 1_000, ...event };
      entries.push(entry);
      appendFileSync(file, `${JSON.stringify(entry)}\n`);
    },
  };
}

/** Entries of a file that createHistory wrote. */
export function readHistory(file: string): Entry[] {
  const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => JSON.parse(line) as Entry);
}
