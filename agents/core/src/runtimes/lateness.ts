/**
 * Why what is waited for is not there yet, told while it is waited for: a deadline of the server's may end the wait,
 * and then nobody here is asked any more.
 */
import { systemClock } from "@bowline/kernel";
import type { Held, Member } from "./members.ts";

/** What is there by then needs no reason; most is. */
const firstMs = 1_000;
/** Then each pause is twice the one before, up to this: what is told is at most that old, and a slow start costs little. */
const longestMs = 10_000;

/** Workloads of which a reason is in one report: some KiB each, and more is read by nobody. */
export const mostReasons = 8;

/** Waits, and meanwhile calls `say` with why the first of those that are late is not there, whenever that changes. */
export async function tellingWhy<M extends Member>(
  held: Held<M>,
  batch: readonly M[],
  say: (why: string) => void,
  wait: Promise<void>,
): Promise<void> {
  const over = new AbortController();
  const telling = tell(held, batch, say, over.signal);
  try {
    await Promise.race([wait, telling.then(() => wait)]); // whoever is asked may hang: that holds up nothing
  } finally {
    over.abort();
  }
}

async function tell<M extends Member>(
  held: Held<M>,
  batch: readonly M[],
  say: (why: string) => void,
  over: AbortSignal,
): Promise<void> {
  let told = "";
  for (let pauseMs = firstMs; ; pauseMs = Math.min(2 * pauseMs, longestMs)) {
    await systemClock.sleep(pauseMs, over);
    if (over.aborted) return;
    const late = batch.find((one) => held.readiness(one).kind === "waiting");
    // Where it cannot be asked now, the next turn does.
    const why = late === undefined ? "" : await held.whyNotYet(late).catch(() => "");
    if (over.aborted) return;
    if (why !== "" && why !== told) say((told = why));
  }
}
