/** A thread of `npm run simulate`: runs the histories that it is given, one after another. */
import { parentPort } from "node:worker_threads";
import type { Violation } from "./checker.ts";
import { simulate } from "./history.ts";

/** Histories `seed/first` to `seed/last`. */
export interface Order {
  seed: string;
  first: number;
  last: number;
}

/** What becomes of one history. */
export interface Done {
  number: number;
  violations: readonly Violation[];
  faults: number;
  commands: number;
  tookMs: number;
  /** As Coverage counts. */
  taken: ReadonlyMap<string, number>;
}

/** Errors are what half of the simulated faults are made of, and nobody reads where they come from. */
Error.stackTraceLimit = 0;

async function carryOut({ seed, first, last }: Order): Promise<void> {
  const done: Done[] = [];
  for (let number = first; number <= last; number += 1) {
    const { violations, faults, commands, tookMs, coverage } = await simulate(`${seed}/${number}`);
    done.push({ number, violations, faults: faults.length, commands, tookMs, taken: coverage.taken });
  }
  parentPort?.postMessage(done);
}

parentPort?.on("message", (order: Order) => void carryOut(order));
