/** Frames of a tunnel in batches, for requests: what comes within a moment of the first goes with it. */
import type { Clock } from "@bowline/kernel";
import { maxTunnelFramesOfRequest, maxTunnelRequestBytes } from "./tunnels.ts";

export interface TunnelBatch<T> {
  /** In their order. */
  frames: T[];
  /** There is no more. */
  last: boolean;
}

/** Below what a person notices, and a few dozen requests a second. */
const gatherMs = 30;

/**
 * The next batch at each call; call it again when the last one is dealt with. Waits for a first frame; where there is
 * none the batch is empty and the last. Rejects with what the source does, after what came before.
 */
export function inBatches<T>(
  source: AsyncIterator<T>,
  sizeOf: (frame: T) => number,
  clock: Pick<Clock, "sleep">,
): () => Promise<TunnelBatch<T>> {
  let coming: Promise<IteratorResult<T>> | undefined;
  let over = false;
  return async () => {
    const frames: T[] = [];
    let bytes = 0;
    const gathered = new AbortController();
    let moment: Promise<void> | undefined;
    while (!over && frames.length < maxTunnelFramesOfRequest && bytes < maxTunnelRequestBytes) {
      if (coming === undefined) {
        coming = source.next();
        coming.catch(() => undefined); // told when it is waited for
      }
      const next = await (moment === undefined ? coming : Promise.race([coming, moment]));
      if (next === undefined) break;
      coming = undefined;
      if (next.done === true) {
        over = true;
        break;
      }
      frames.push(next.value);
      bytes += sizeOf(next.value);
      moment ??= clock.sleep(gatherMs, gathered.signal);
    }
    gathered.abort();
    return { frames, last: over };
  };
}
