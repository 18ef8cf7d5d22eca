/**
 * Time, chance and processes of a simulated history.
 *
 * W1: nothing happens but events, one after another; whatever an event sets off
 *     without waiting is through before the next one. So a seed is a history.
 * W2: a process that has died does nothing more, and one that stands still does
 *     what was due when it goes on, in that order. All that the real code waits
 *     for comes through its process.
 */
import type { Clock } from "@bowline/kernel";
import type { Random } from "./random.ts";

interface Event {
  at: number;
  order: number;
  run: () => void;
}

/** Wall time at the start of every history. */
const epochMs = Date.UTC(2026, 0, 1);

export class World {
  /** Ms since the start. */
  now = 0;
  readonly random: Random;
  /** What happened, for people; undefined: nobody reads it. */
  readonly trace: string[] | undefined;
  #queue: Event[] = [];
  #order = 0;

  constructor(random: Random, trace: boolean) {
    this.random = random;
    this.trace = trace ? [] : undefined;
  }

  at(inMs: number, run: () => void): void {
    push(this.#queue, { at: this.now + Math.max(0, inMs), order: (this.#order += 1), run });
  }

  /** `say` makes the line, so that it costs nothing where nobody reads it. */
  note(who: string, say: () => string): void {
    this.trace?.push(`${(this.now / 1000).toFixed(3).padStart(9)} ${who.padEnd(9)} ${say()}`);
  }

  /** Runs events until `over` says so, or none is left. `over` is asked after each. */
  async run(over: () => boolean): Promise<void> {
    for (let event = pop(this.#queue); event !== undefined; event = pop(this.#queue)) {
      this.now = event.at;
      event.run();
      await settled(); // W1
      if (over()) return;
    }
  }
}

/**
 * Resolves when every promise that can go on has: Node takes its queue of ticks
 * up when that of promises is empty. Nothing here waits for the machine, so the
 * event loop need not turn, which would cost more than most events.
 */
function settled(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}

export class Process {
  readonly name: string;
  readonly world: World;
  alive = true;
  paused = false;
  readonly clock: Clock;
  #due: (() => void)[] = [];
  readonly #atDeath = new Set<() => void>();

  /** `skewMs`: how far its wall clock is off. */
  constructor(world: World, name: string, skewMs = 0) {
    this.world = world;
    this.name = name;
    this.clock = {
      now: () => epochMs + world.now + skewMs,
      monotonicMs: () => world.now,
      sleep: (ms, signal) => this.#sleep(ms, signal),
    };
  }

  /** Runs `work` in so long, if the process lives then (W2). */
  after(ms: number, work: () => void): void {
    this.world.at(ms, () => {
      if (!this.alive) return;
      if (this.paused) this.#due.push(work);
      else work();
    });
  }

  wait(ms: number): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve));
  }

  note(say: () => string): void {
    this.world.note(this.name, say);
  }

  /** What the machine does at its death: sockets close, transactions end. Returns how to take it back. */
  atDeath(work: () => void): () => void {
    this.#atDeath.add(work);
    return () => this.#atDeath.delete(work);
  }

  kill(): void {
    if (!this.alive) return;
    this.note(() => "killed");
    this.alive = false;
    this.#due = [];
    for (const work of this.#atDeath) work();
    this.#atDeath.clear();
  }

  pause(forMs: number): void {
    if (!this.alive || this.paused) return;
    this.note(() => `stands still for ${Math.round(forMs)} ms`);
    this.paused = true;
    this.world.at(forMs, () => this.resume());
  }

  resume(): void {
    if (!this.alive || !this.paused) return;
    this.note(() => "goes on");
    this.paused = false;
    const due = this.#due;
    this.#due = [];
    for (const work of due) this.after(0, work);
  }

  #sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted === true) return Promise.resolve();
    return new Promise((resolve) => {
      const end = (): void => {
        signal?.removeEventListener("abort", end);
        resolve();
      };
      this.after(ms, end);
      signal?.addEventListener("abort", end, { once: true });
    });
  }
}

/** A binary heap by time, then by order of making. */
function before(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

function push(heap: Event[], event: Event): void {
  let at = heap.push(event) - 1;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    const above = heap[parent];
    if (above === undefined || before(above, event)) break;
    heap[at] = above;
    at = parent;
  }
  heap[at] = event;
}

function pop(heap: Event[]): Event | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (first === undefined || last === undefined || heap.length === 0) return first;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    let least = heap[child];
    if (least === undefined) break;
    const right = heap[child + 1];
    if (right !== undefined && before(right, least)) {
      least = right;
      child += 1;
    }
    if (before(last, least)) break;
    heap[at] = least;
    at = child;
  }
  heap[at] = last;
  return first;
}
