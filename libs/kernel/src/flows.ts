/**
 * Flows of items between two sides that take turns, without a queue: who reads
 * slowly slows who writes. What streams of bytes are carried by.
 *
 * F1: one item of each source is held at most.
 * F2: a promise that may stay open for long is waited for once, never again each
 *     time that something else has come: each wait would keep what it ended with.
 */
import type { Clock } from "./clock.ts";

/**
 * The items of several sources as they come, until all have ended. Leaving early leaves the sources at their next item:
 * close what they read.
 */
export async function* merged<T>(sources: readonly AsyncIterable<T>[]): AsyncGenerator<T> {
  type Turn = { iterator: AsyncIterator<T>; result: IteratorResult<T> } | { error: unknown };
  const open = new Set<AsyncIterator<T>>();
  const come: Turn[] = []; // in the order in which they came: no source keeps another waiting
  let wake = (): void => undefined;
  const tell = (turn: Turn): void => {
    come.push(turn);
    wake();
  };
  const ask = (iterator: AsyncIterator<T>): void =>
    void iterator.next().then(
      (result) => tell({ iterator, result }),
      (error: unknown) => tell({ error }),
    );
  for (const source of sources) open.add(source[Symbol.asyncIterator]());
  try {
    for (const iterator of open) ask(iterator);
    while (open.size > 0) {
      const turn = come.shift();
      if (turn === undefined) {
        await new Promise<void>((resolve) => (wake = resolve)); // F2
        continue;
      }
      if ("error" in turn) throw turn.error;
      const { iterator, result } = turn;
      if (result.done === true) {
        open.delete(iterator);
        continue;
      }
      yield result.value;
      ask(iterator);
    }
  } finally {
    for (const iterator of open) leave(iterator);
  }
}

/** Not waited for: it takes effect after the item that is awaited. */
function leave<T>(iterator: AsyncIterator<T>): void {
  iterator.return?.().catch(() => undefined); // whoever left wants to know nothing more
}

/** The items of a source, and one of `idle` whenever nothing else has come for so long. */
export async function* withIdle<T>(
  source: AsyncIterable<T>,
  everyMs: number,
  idle: () => T,
  clock: Pick<Clock, "sleep">,
): AsyncGenerator<T> {
  const iterator = source[Symbol.asyncIterator]();
  type Turn = { result: IteratorResult<T> } | { error: unknown };
  let came: Turn | undefined;
  let waiting = new AbortController();
  const tell = (turn: Turn): void => {
    came = turn;
    waiting.abort();
  };
  const ask = (): void =>
    void iterator.next().then(
      (result) => tell({ result }),
      (error: unknown) => tell({ error }),
    );
  try {
    ask();
    for (;;) {
      waiting = new AbortController();
      if (came === undefined) await clock.sleep(everyMs, waiting.signal); // F2
      const turn = came as Turn | undefined; // it may have come meanwhile
      if (turn === undefined) {
        yield idle();
        continue;
      }
      came = undefined;
      if ("error" in turn) throw turn.error;
      if (turn.result.done === true) return;
      yield turn.result.value;
      ask();
    }
  } finally {
    leave(iterator);
  }
}

/** One writer's items, handed to one reader. */
export interface Handoff<T> extends AsyncIterable<T> {
  /** Resolves when the reader asks for the next one, or is gone: true where it has taken this one. */
  put(item: T): Promise<boolean>;
  /** The reader is told that there is no more, after what it has not taken yet. */
  end(): void;
  /** The reader is gone: nothing is taken any more. */
  leave(): void;
}

export function createHandoff<T>(): Handoff<T> {
  let held: { item: T; taken: (taken: boolean) => void } | undefined;
  let ended = false;
  let wake: (() => void) | undefined;
  const handoff: Handoff<T> = {
    put(item) {
      if (ended) return Promise.resolve(false);
      if (held !== undefined) throw new Error("a second writer"); // a defect
      return new Promise((taken) => {
        held = { item, taken };
        wake?.();
      });
    },
    end() {
      ended = true;
      wake?.();
    },
    leave() {
      ended = true;
      held?.taken(false);
      held = undefined;
      wake?.();
    },
    async *[Symbol.asyncIterator]() {
      try {
        for (;;) {
          if (held !== undefined) {
            const { item, taken } = held;
            yield item; // F1
            held = undefined;
            taken(true);
          } else if (ended) return;
          else await new Promise<void>((resolve) => (wake = resolve));
        }
      } finally {
        handoff.leave();
      }
    },
  };
  return handoff;
}
