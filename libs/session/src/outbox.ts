/**
 * What waits to be sent on one stream: read by the transport as fast as the
 * peer takes it, as an AsyncIterable or, for one that is pushed, by `take`.
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

export type OutboxOptions<M, Item = M> = {
  /** What the transport is given of a message: once, when it is queued. */
  encode: (message: M) => Item;
  /** Its encoded size. */
  sizeOf: (item: Item) => number;
  limitBytes: number;
  maxQueued: number;
  stallMs: number;
  /** Messages with the same key: only the newest matters. Undefined: each matters. */
  coalesce: (message: M) => string | undefined;
  clock: Clock;
  /** Called once, when O3 strikes; the outbox is closed then. */
  stalled: () => void;
};

export interface Outbox<M, Item = M> extends AsyncIterable<Item> {
  send(message: M): SendOutcome;
  /** The next to go out; undefined: nothing waits. */
  take(): Item | undefined;
  /** Calls `ready` in the place of an iterator, when something was queued. */
  push(ready: () => void): void;
  /** The pushed transport takes nothing now, so the stall limit runs (O3). */
  stuck(): void;
  /** Resolves when nothing more will be taken. */
  readonly over: Promise<void>;
  /** What is queued still goes out, then the reader's iteration ends, or throws `error`. */
  close(error?: unknown): void;
  /** Nothing more goes out. */
  abandon(): void;
  readonly queued: number;
}

type Entry<Item> = { item: Item; key: string | undefined };

export function createOutbox<M, Item = M>(options: OutboxOptions<M, Item>): Outbox<M, Item> {
  const { clock } = options;
  const queue: Entry<Item>[] = [];
  const waitingByKey = new Map<string, Entry<Item>>();
  /** Made when the first watch for a stall begins: most streams never stall. */
  let watching: AbortController | undefined;
  let end: { error: unknown } | undefined;
  let takenAt = clock.monotonicMs();
  let watched = false;
  let wake: (() => void) | undefined;
  let ready: (() => void) | undefined;
  let settle: () => void = () => {};
  const over = new Promise<void>((resolve) => (settle = resolve));

  const outbox: Outbox<M, Item> = {
    send(message) {
      if (end !== undefined) return "closed";
      const item = options.encode(message);
      if (options.sizeOf(item) > options.limitBytes) return "too-large";
      const key = options.coalesce(message);
      const older = key === undefined ? undefined : waitingByKey.get(key);
      if (older !== undefined) {
        older.item = item;
        return "coalesced";
      }
      if (queue.length >= options.maxQueued) return "full";
      const entry = { item, key };
      if (queue.length === 0) takenAt = clock.monotonicMs();
      queue.push(entry);
      if (key !== undefined) waitingByKey.set(key, entry);
      wake?.();
      if (ready === undefined) outbox.stuck();
      else ready();
      return "queued";
    },
    take() {
      const entry = queue.shift();
      takenAt = clock.monotonicMs();
      if (entry?.key !== undefined) waitingByKey.delete(entry.key);
      if (queue.length === 0 && end !== undefined) settle();
      return entry?.item;
    },
    push(given) {
      ready = given;
      if (queue.length > 0) given();
    },
    stuck() {
      if (queue.length > 0 && !watched) void watchForStall();
    },
    over,
    close(error) {
      end ??= { error };
      wake?.();
      if (queue.length > 0) return;
      watching?.abort();
      settle();
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
          if (queue.length > 0) {
            yield outbox.take() as Item;
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
    watching ??= new AbortController();
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
