/**
 * One timer for a whole fleet: 10,000 agents have some 40,000 waits under way,
 * and a timer of Node's each would cost more memory than the agents.
 *
 * T1: nothing is called early; late by a tick at most, where the process keeps up.
 */

/** Heartbeats, work and backoffs are told apart by far more. */
const tickMs = 10;

export interface Wait {
  cancel(): void;
}

export interface Wheel {
  /** Calls `act` once, after `ms`. */
  after(ms: number, act: () => void): Wait;
  /** Resolves after `ms`, or when the wheel stops. */
  sleep(ms: number): Promise<void>;
  /** Nothing is called any more; who sleeps wakes. */
  stop(): void;
}

type Entry = { act: (() => void) | undefined; asleep: boolean };

export function createWheel(): Wheel {
  const slots = new Map<number, Entry[]>();
  const startedAt = performance.now();
  let turned = 0;
  let stopped = false;

  const put = (ms: number, entry: Entry): void => {
    const due = performance.now() - startedAt + ms;
    const slot = Math.max(turned + 1, Math.ceil(due / tickMs)); // T1
    const others = slots.get(slot);
    if (others === undefined) slots.set(slot, [entry]);
    else others.push(entry);
  };
  const call = (entry: Entry): void => {
    const { act } = entry;
    entry.act = undefined;
    act?.();
  };
  const turn = (): void => {
    const now = Math.floor((performance.now() - startedAt) / tickMs);
    while (turned < now && !stopped) {
      turned += 1;
      const due = slots.get(turned);
      if (due === undefined) continue;
      slots.delete(turned);
      for (const entry of due) call(entry);
    }
  };
  const timer = setInterval(turn, tickMs);

  return {
    after(ms, act) {
      const entry: Entry = { act, asleep: false };
      if (!stopped) put(ms, entry);
      return { cancel: () => (entry.act = undefined) };
    },
    sleep(ms) {
      if (stopped) return Promise.resolve();
      return new Promise((resolve) => put(ms, { act: resolve, asleep: true }));
    },
    stop() {
      stopped = true;
      clearInterval(timer);
      for (const entries of slots.values()) for (const entry of entries) if (entry.asleep) call(entry);
      slots.clear();
    },
  };
}
