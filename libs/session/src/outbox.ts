/**
 * What waits to be sent on one stream: read by the transport as an
 * AsyncIterable, as fast as the peer takes it.
 *
 * O1: what was queued goes out in the order in which it was queued.
 * O2: nothing is dropped in silence. A coalesced message takes the place of
 *     its older one; what finds no place is refused, and the sender knows.
 * O3: a peer that takes nothing for the stall limit ends the outbox.
 */
import type { Clock } from "@bowline/kernel";

/**
 * What became of a message. `too-large`: above the limit, a defect of the
 * sender or something that needs pages. `full`: the peer can't follow; close.
 * `closed`: too late.
 */
export type SendOutcome = "queued" | "coalesced" | "too-large" | "full" | "closed";

export type OutboxOptions<M> = {
  /** Its encoded size. */
  sizeOf: (message: M) => number;
  limitBytes: number;
  maxQueued: number;
  stallMs: number;
  /** Messages with the same key: only the newest matters. Undefined: each matters. */
  coalesce: (message: M) => string | undefined;
  clock: Clock;
  /** Called once, when O3 strikes; the outbox is closed then. */
  stalled: () => void;
};

export interface Outbox<M> extends AsyncIterable<M> {
  send(message: M): SendOutcome;
  /** What is queued still goes out, then the reader's iteration ends, or throws `error`. */
  close(error?: unknown): void;
  /** Nothing more goes out. */
  abandon(): void;
  readonly queued: number;
}

type Entry<M> = { message: M; key: string | undefined };

export function createOutbox<M>(options: OutboxOptions<M>): Outbox<M> {
  const { clock } = options;
  const queue: Entry<M>[] = [];
  const waitingByKey = new Map<string, Entry<M>>();
  const watching = new AbortController();
  let end: { error: unknown } | undefined;
  let takenAt = clock.monotonicMs();
  let watched = false;
  let wake: (() => void) | undefined;

  const outbox: Outbox<M> = {
    send(message) {
      if (end !== undefined) return "closed";
      if (options.sizeOf(message) > options.limitBytes) return "too-large";
      const key = options.coalesce(message);
      const older = key === undefined ? undefined : waitingByKey.get(key);
      if (older !== undefined) {
        older.message = message;
        return "coalesced";
      }
      if (queue.length >= options.maxQueued) return "full";
      const entry = { message, key };
      if (queue.length === 0) takenAt = clock.monotonicMs();
      queue.push(entry);
      if (key !== undefined) waitingByKey.set(key, entry);
      wake?.();
      if (queue.length > 0 && !watched) void watchForStall();
      return "queued";
    },
    close(error) {
      end ??= { error };
      wake?.();
      if (queue.length === 0) watching.abort();
    },
    abandon() {
      queue.length = 0;
      waitingByKey.clear();
      outbox.close();
    },
    get queued() {
      return queue.length;
    },
    async *[Symbol.asyncIterator]() {
      try {
        for (;;) {
          const entry = queue.shift();
          if (entry !== undefined) {
            takenAt = clock.monotonicMs();
            if (entry.key !== undefined) waitingByKey.delete(entry.key);
            yield entry.message;
            takenAt = clock.monotonicMs();
          } else if (end !== undefined) {
            if (end.error !== undefined) throw end.error;
            return;
          } else {
            await new Promise<void>((resolve) => (wake = resolve));
            wake = undefined;
          }
        }
      } finally {
        // The transport left: nobody will read the rest.
        outbox.abandon();
      }
    },
  };
  return outbox;

  /** One loop while something is queued, instead of a timer per message. */
  async function watchForStall(): Promise<void> {
    watched = true;
    while (queue.length > 0 && !watching.signal.aborted) {
      const restMs = takenAt + options.stallMs - clock.monotonicMs();
      if (restMs <= 0) {
        outbox.abandon();
        options.stalled();
        return;
      }
      await clock.sleep(restMs, watching.signal);
    }
    watched = false;
  }
}
