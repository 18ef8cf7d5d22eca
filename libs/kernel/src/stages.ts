/**
 * Starting a process in stages and stopping it in reverse.
 *
 * G1: a stage starts after every stage before it has started.
 * G2: a stage stops after every stage behind it has ended or was given up.
 * G3: a stage that fails to start leaves nothing running.
 * G4: a stop is asked for once, and is waited for no longer than its bound.
 */
import { type Clock, systemClock } from "./clock.ts";

export type Stage = {
  name: string;
  /** How long its stop may take; then the next one follows. */
  stopWithinMs: number;
  /** Resolves when what it starts is ready to be used, with how to stop it. */
  start(): Promise<() => Promise<void>>;
};

/** How a stage ended. `overdue`: its bound passed and it may still be running. */
export type StageEnd =
  | { name: string; outcome: "stopped"; tookMs: number }
  | { name: string; outcome: "overdue"; tookMs: number }
  | { name: string; outcome: "failed"; tookMs: number; error: unknown };

/** Stops all stages; the ends in the order in which they stopped. Never throws; another call gets the same answer. */
export type StopAll = () => Promise<StageEnd[]>;

/**
 * Starts `stages` in order.
 *
 * Throws what a stage threw, after the started ones have stopped. If `signal`
 * aborts meanwhile, no further stage starts, the started ones are stopped, and
 * its reason is thrown.
 */
export async function startStages(
  stages: readonly Stage[],
  options: { signal?: AbortSignal; clock?: Clock } = {},
): Promise<StopAll> {
  const { signal, clock = systemClock } = options;
  const started: { stage: Stage; stop: () => Promise<void> }[] = [];
  try {
    for (const stage of stages) {
      signal?.throwIfAborted();
      started.push({ stage, stop: await stage.start() });
    }
    signal?.throwIfAborted();
  } catch (error) {
    await stopStarted(); // G3
    throw error;
  }

  let stopping: Promise<StageEnd[]> | undefined;
  return () => (stopping ??= stopStarted()); // G4

  async function stopStarted(): Promise<StageEnd[]> {
    const ends: StageEnd[] = [];
    for (const { stage, stop } of started.toReversed()) ends.push(await stopOne(stage, stop, clock)); // G2
    return ends;
  }
}

async function stopOne(stage: Stage, stop: () => Promise<void>, clock: Clock): Promise<StageEnd> {
  const { name, stopWithinMs } = stage;
  const from = clock.monotonicMs();
  const enough = new AbortController();
  const tookMs = (): number => clock.monotonicMs() - from;
  const stopped = (async (): Promise<StageEnd> => {
    try {
      await stop();
      return { name, outcome: "stopped", tookMs: tookMs() };
    } catch (error) {
      return { name, outcome: "failed", tookMs: tookMs(), error };
    }
  })();
  const overdue = clock
    .sleep(stopWithinMs, enough.signal)
    .then((): StageEnd => ({ name, outcome: "overdue", tookMs: tookMs() }));
  const end = await Promise.race([stopped, overdue]);
  enough.abort();
  return end;
}
