/** Durations, sizes, numbers and booleans, as the specification writes them. */
import { Unreadable } from "./unreadable.ts";
import { textOf, type Scalar } from "./tree.ts";

const durationUnits: Readonly<Record<string, number>> = {
  ns: 0.000_001,
  us: 0.001,
  µs: 0.001,
  μs: 0.001, // the Greek letter: both are written
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/** `1h5m30s`, `500ms`, `2.5s` in milliseconds, rounded up. */
export function durationMs(text: string): number {
  const unreadable = () =>
    new Unreadable(`${JSON.stringify(text)} is no duration`, "Write a number with a unit: 500ms, 30s, 1m30s, 2h.");
  if (text.trim() === "0") return 0;
  const whole = /^(?:\d{1,12}(?:\.\d{1,9})?(?:ns|us|µs|μs|ms|s|m|h|d|w))+$/.exec(text.trim());
  if (whole === null) throw unreadable();
  let sum = 0;
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|s|m|h|d|w)/g))
    sum += Number(amount) * (durationUnits[unit ?? ""] ?? 0);
  if (!Number.isSafeInteger(Math.ceil(sum)) || sum > 100 * 365 * 86_400_000) throw unreadable();
  return Math.ceil(sum);
}

/** `512m`, `1.5g`, `64MiB`, `1048576` in bytes. All units are powers of 1024. */
export function sizeBytes(text: string): number {
  const parts = /^(\d{1,15}(?:\.\d{1,9})?)\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim());
  const power = ["", "k", "m", "g", "t", "p"].indexOf((parts?.[2] ?? "").toLowerCase());
  const bytes = Math.floor(Number(parts?.[1]) * 1024 ** power);
  if (parts === null || !Number.isSafeInteger(bytes))
    throw new Unreadable(`${JSON.stringify(text)} is no size`, "Write bytes, or a number with a unit: 512m, 2g, 64kb.");
  return bytes;
}

/** `0.5` cores in thousandths, rounded up. */
export function cpuMillis(text: string): number {
  const millis = Math.ceil(Number(text) * 1000 - 1e-6);
  if (!/^\d{0,6}(\.\d{1,9})?$/.test(text.trim()) || text.trim() === "" || !Number.isSafeInteger(millis))
    throw new Unreadable(`${JSON.stringify(text)} is no number of cores`, "Write a number of cores, such as 0.5 or 2.");
  return millis;
}

/** A whole number within bounds. */
export function integer(text: string, least: number, most: number): number {
  const value = Number(text);
  if (!/^-?\d{1,16}$/.test(text.trim()) || value < least || value > most)
    throw new Unreadable(`${JSON.stringify(text)} is no whole number from ${least} to ${most}`, "Write such a number.");
  return value;
}

/** Mode bits: octal, with or without a leading 0, as chmod takes them. */
export function modeBits(scalar: Scalar): number {
  const text = textOf(scalar).replace(/^0o/, "0");
  if (!/^[0-7]{1,5}$/.test(text))
    throw new Unreadable(`${JSON.stringify(textOf(scalar))} is no mode`, 'Write it in octal, such as "0440".');
  const bits = Number.parseInt(text, 8);
  if (bits > 0o7777) throw new Unreadable(`${JSON.stringify(text)} is no mode`, 'Write it in octal, such as "0440".');
  return bits;
}

/** A boolean, also where interpolation made it a string; YAML 1.1's words too. */
export function truth(scalar: Scalar): boolean {
  if (typeof scalar.value === "boolean") return scalar.value;
  const text = textOf(scalar).toLowerCase();
  if (["true", "yes", "y", "on", "1"].includes(text)) return true;
  if (["false", "no", "n", "off", "0"].includes(text)) return false;
  throw new Unreadable(`${JSON.stringify(textOf(scalar))} is neither true nor false`, "Write true or false.");
}
