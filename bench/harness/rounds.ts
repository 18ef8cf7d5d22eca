/** Interleaved rounds: each has all sides once, in an order of its own that the seed decides. */
import { setTimeout as sleep } from "node:timers/promises";
import { seeded, shuffled } from "./statistics.ts";

export interface RoundsOptions {
  rounds: number;
  seed: number;
  /** No round begins that would end after this, by performance.now(); but `leastRounds` do. */
  until: number;
  /** What is not measured by then is left out with its round. */
  latest: number;
  /** Aborts between two measurements. */
  signal: AbortSignal;
  progress: (text: string) => void;
}

/** Fewer have no spread. */
const leastRounds = 3;

/** The values of each side, a record per round. */
export async function interleaved<Name extends string>(
  sides: Record<Name, (round: number) => Promise<Record<string, number>>>,
  { rounds, seed, until, latest, signal, progress }: RoundsOptions,
): Promise<Record<Name, Record<string, number[]>>> {
  const names = Object.keys(sides) as Name[];
  const random = seeded(seed);
  const values = Object.fromEntries(names.map((name) => [name, {}])) as Record<Name, Record<string, number[]>>;
  const startedAt = performance.now();
  for (let round = 0; round < rounds; round += 1) {
    const each = round === 0 ? 0 : (performance.now() - startedAt) / round;
    if (round >= leastRounds && performance.now() + each > until) {
      progress(`the time is over after ${round} of ${rounds} rounds`);
      break;
    }
    const measuredOnes = new Map<Name, Record<string, number>>();
    for (const name of shuffled(names, random)) {
      signal.throwIfAborted();
      const measured = await before(latest, sides[name](round));
      if (measured === "late") {
        if (round === 0) throw new Error("void: not one round has ended in time");
        progress(`the time is over in round ${round + 1} of ${rounds}`);
        return values;
      }
      measuredOnes.set(name, measured);
      const said = Object.entries(measured).map(([key, value]) => `${key} ${short(value)}`);
      progress(`round ${round + 1} of ${rounds}  ${name.padEnd(24)} ${said.join("  ")}`);
    }
    for (const [name, measured] of measuredOnes) {
      const of: Record<string, number[]> = values[name];
      for (const [key, value] of Object.entries(measured)) (of[key] ??= []).push(value);
    }
  }
  return values;
}

/** What goes on after `latest` ends with the processes that it asks. */
async function before<T>(latest: number, measuring: Promise<T>): Promise<T | "late"> {
  const over = new AbortController();
  const late = sleep(Math.max(0, latest - performance.now()), "late" as const, { signal: over.signal, ref: false });
  late.catch(() => undefined); // it was in time
  measuring.catch(() => undefined); // told below, unless it is late
  try {
    return await Promise.race([measuring, late]);
  } finally {
    over.abort();
  }
}

/** Three digits that matter. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "–";
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}
