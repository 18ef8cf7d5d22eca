/** How values look to people: times, durations, sizes of columns, hostile text. */
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { Timestamp } from "@bufbuild/protobuf/wkt";

const secondMs = 1_000;
const minuteMs = 60 * secondMs;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;

/** What a cell shows where there is nothing. */
export const nothing = "–";

/**
 * Text that came from elsewhere, on one line and without control characters:
 * an agent's name must not move the cursor of an operator's terminal.
 */
export function plain(text: string): string {
  // oxlint-disable-next-line no-control-regex -- they are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trimEnd();
}

/** A line on a terminal: colours may stay, nothing else that moves its cursor or writes its title. */
export function harmless(line: string): string {
  // oxlint-disable-next-line no-control-regex -- they are what is looked for
  return line.replace(/\u001b\[[0-9;]*m|[\u0000-\u0008\u000a-\u001f\u007f-\u009f]/g, (found) =>
    found.startsWith("\u001b[") ? found : "",
  );
}

/** A duration as people say it: `34 s`, `2 h`, `3 d`. Rounded down to one unit. */
export function span(ms: number): string {
  if (ms < minuteMs) return `${Math.max(0, Math.floor(ms / secondMs))} s`;
  if (ms < hourMs) return `${Math.floor(ms / minuteMs)} min`;
  if (ms < 2 * dayMs) return `${Math.floor(ms / hourMs)} h`;
  return `${Math.floor(ms / dayMs)} d`;
}

/** Local time; the day only where it is not today: `08:40`, `20 Nov 08:40`, `20 Nov 2025 08:40`. */
export function clockTime(at: Timestamp, now: Date = new Date()): string {
  const date = timestampDate(at);
  const two = (value: number): string => String(value).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (date.toDateString() === now.toDateString()) return time;
  const month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][date.getMonth()];
  const year = date.getFullYear() === now.getFullYear() ? "" : ` ${date.getFullYear()}`;
  return `${date.getDate()} ${month}${year} ${time}`;
}

/** Local time with how far away it is: `08:40, 3 min ago` or `10:12, in 58 min`. */
export function when(at: Timestamp | undefined, now: Date = new Date()): string {
  if (at === undefined) return nothing;
  const ms = now.getTime() - timestampDate(at).getTime();
  const far = ms >= 0 ? `${span(ms)} ago` : `in ${span(-ms)}`;
  return `${clockTime(at, now)}, ${far}`;
}

/** How long ago, as a bare span; `–` where it never was. */
export function since(at: Timestamp | undefined, now: Date = new Date()): string {
  return at === undefined ? nothing : span(Math.max(0, now.getTime() - timestampDate(at).getTime()));
}

/** Reads `90s`, `10m`, `1h30m`, `7d`, `500ms`; a bare number is seconds. Undefined if it is none of these. */
export function parseSpan(text: string): number | undefined {
  if (/^\d+(\.\d+)?$/.test(text)) return Math.round(Number(text) * secondMs);
  const units: Record<string, number> = { ms: 1, s: secondMs, m: minuteMs, min: minuteMs, h: hourMs, d: dayMs };
  let rest = text;
  let total = 0;
  while (rest !== "") {
    const part = /^(\d+(?:\.\d+)?)(ms|min|s|m|h|d)/.exec(rest);
    if (part === null) return undefined;
    total += Number(part[1]) * (units[part[2] ?? ""] ?? 0);
    rest = rest.slice(part[0].length);
  }
  return text === "" ? undefined : Math.round(total);
}

/** `k=v` pairs on one line, sorted. */
export function labels(map: Record<string, string>): string {
  return (
    Object.entries(map)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, value]) => (value === "" ? key : `${key}=${value}`))
      .join(",") || nothing
  );
}

/** Rows as aligned columns, two spaces apart. The last column is not padded. */
export function columns(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, index) => (widths[index] = Math.max(widths[index] ?? 0, width(cell))));
  }
  return rows.map((row) =>
    row
      .map((cell, index) => (index === row.length - 1 ? cell : cell + " ".repeat((widths[index] ?? 0) - width(cell))))
      .join("  ")
      .trimEnd(),
  );
}

/** How many cells of a terminal a text takes, near enough: code points. */
export function width(text: string): number {
  return Array.from(text).length;
}

/** The name of an enum's value as the API's JSON says it; the number where this build doesn't know it. */
export function enumName(names: Readonly<Record<string, unknown>>, value: number): string {
  return Object.entries(names).find(([, number]) => number === value)?.[0] ?? String(value);
}
