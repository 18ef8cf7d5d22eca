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
  return new BoundedOutbox(options);
}

/** A class, because a server has one for each of its agents: methods of their own would weigh more than the rest. */
class BoundedOutbox<M, Item> implements Outbox<M, Item> {
  readonly over: Promise<void>;
  readonly #options: OutboxOptions<M, Item>;
  readonly #queue: Entry<Item>[] = [];
  #settle: () => void = () => {};
  /** Made when the first watch for a stall begins: most streams never stall. */
  #watching: AbortController | undefined;
  #end: { error: unknown } | undefined;
  #takenAt: number;
  #watched = false;
  #wake: (() => void) | undefined;
  #ready: (() => void) | undefined;

  constructor(options: OutboxOptions<M, Item>) {
    this.#options = options;
    this.#takenAt = options.clock.monotonicMs();
    this.over = new Promise((resolve) => (this.#settle = resolve));
  }

  send(message: M): SendOutcome {
    if (this.#end !== undefined) return "closed";
    const { encode, sizeOf, limitBytes, coalesce, maxQueued, clock } = this.#options;
    const item = encode(message);
    if (sizeOf(item) > limitBytes) return "too-large";
    const key = coalesce(message);
    // Searched for rather than kept by key: where messages coalesce, next to nothing waits.
    const older = key === undefined ? undefined : this.#queue.find((entry) => entry.key === key);
    if (older !== undefined) {
      older.item = item;
      return "coalesced";
    }
    if (this.#queue.length >= maxQueued) return "full";
    if (this.#queue.length === 0) this.#takenAt = clock.monotonicMs();
    this.#queue.push({ item, key });
    this.#wake?.();
    if (this.#ready === undefined) this.stuck();
    else this.#ready();
    return "queued";
  }

  take(): Item | undefined {
    const entry = this.#queue.shift();
    this.#takenAt = this.#options.clock.monotonicMs();
    if (this.#queue.length === 0 && this.#end !== undefined) this.#settle();
    return entry?.item;
  }

  push(ready: () => void): void {
    this.#ready = ready;
    if (this.#queue.length > 0) ready();
  }

  stuck(): void {
    if (this.#queue.length > 0 && !this.#watched) void this.#watchForStall();
  }

  close(error?: unknown): void {
    this.#end ??= { error };
    this.#wake?.();
    if (this.#queue.length > 0) return;
    this.#watching?.abort();
    this.#settle();
  }

  abandon(): void {
    this.#queue.length = 0;
    this.close();
  }

  get queued(): number {
    return this.#queue.length;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item> {
    try {
      for (;;) {
        if (this.#queue.length > 0) {
          yield this.take() as Item;
          this.#takenAt = this.#options.clock.monotonicMs();
        } else if (this.#end !== undefined) {
          if (this.#end.error !== undefined) throw this.#end.error;
          return;
        } else {
          await new Promise<void>((resolve) => (this.#wake = resolve));
          this.#wake = undefined;
        }
      }
    } finally {
      // The transport left: nobody will read the rest.
      this.abandon();
    }
  }

  /** One loop while something is queued, instead of a timer per message. */
  async #watchForStall(): Promise<void> {
    const { clock, stallMs, stalled } = this.#options;
    this.#watched = true;
    this.#watching ??= new AbortController();
    while (this.#queue.length > 0 && !this.#watching.signal.aborted) {
      const restMs = this.#takenAt + stallMs - clock.monotonicMs();
      if (restMs <= 0) {
        this.abandon();
        stalled();
        return;
      }
      await clock.sleep(restMs, this.#watching.signal);
    }
    this.#watched = false;
  }
}
