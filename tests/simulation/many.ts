/**
 * Many histories on all cores. A history is its seed, whichever thread runs it:
 * only the order in which they end is chance, and nothing is told in that order.
 */
import { Worker } from "node:worker_threads";
import type { Violation } from "./checker.ts";
import { Coverage } from "./coverage.ts";
import type { Done, Order } from "./worker.ts";

export interface Many {
  seed: string;
  histories: number;
  /** Threads. */
  jobs: number;
  /** Goes on behind a violation. */
  keepsGoing: boolean;
  /** Ends early, with what is done. */
  signal: AbortSignal;
  /** Told now and then how many are done. */
  progress: (done: number) => void;
}

export interface Found {
  number: number;
  faults: number;
  violations: readonly Violation[];
}

export interface Total {
  histories: number;
  commands: number;
  /** Virtual time of all. */
  virtualMs: number;
  /** By number. */
  found: readonly Found[];
  coverage: Coverage;
}

/** Histories per order: some tenths of a second, so that threads end together and a Ctrl-C is heard. */
const perOrder = 10;

export async function simulateMany(many: Many): Promise<Total> {
  const total = { histories: 0, commands: 0, virtualMs: 0, coverage: new Coverage() };
  const found: Found[] = [];
  let given = 0;
  const next = (): Order | undefined => {
    const ends = many.signal.aborted || (found.length > 0 && !many.keepsGoing);
    if (ends || given >= many.histories) return undefined;
    const first = given + 1;
    given = Math.min(many.histories, given + perOrder);
    return { seed: many.seed, first, last: given };
  };
  const take = (done: readonly Done[]): void => {
    for (const { number, violations, faults, commands, tookMs, taken } of done) {
      total.histories += 1;
      total.commands += commands;
      total.virtualMs += tookMs;
      total.coverage.add(new Coverage(taken));
      if (violations.length > 0) found.push({ number, faults, violations });
    }
    many.progress(total.histories);
  };
  const threads = Math.min(many.jobs, Math.ceil(many.histories / perOrder));
  await Promise.all(Array.from({ length: threads }, () => thread(next, take, many.signal)));
  return { ...total, found: found.toSorted((a, b) => a.number - b.number) };
}

/** Resolves when there is nothing left to do, or `signal` aborts. */
async function thread(
  next: () => Order | undefined,
  take: (done: readonly Done[]) => void,
  signal: AbortSignal,
): Promise<void> {
  const worker = new Worker(new URL("./worker.ts", import.meta.url));
  let abort: (() => void) | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      const go = (): void => {
        const order = next();
        if (order === undefined) resolve();
        else worker.postMessage(order);
      };
      worker.on("message", (done: readonly Done[]) => {
        take(done);
        go();
      });
      worker.on("error", reject);
      abort = () => resolve();
      signal.addEventListener("abort", abort);
      go();
    });
  } finally {
    if (abort !== undefined) signal.removeEventListener("abort", abort);
    await worker.terminate();
  }
}
