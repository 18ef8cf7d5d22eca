/**
 * Notices peers that say nothing: one loop for all that share a clock, because
 * a timer, a promise and a signal for each of ten thousand idle streams weigh
 * more than all else that is known of them.
 *
 * Q1: each is told once, no sooner than its limit after the last word, and at
 *     most `leastWaitMs` later.
 * Q2: while nobody is watched nothing runs.
 */
import type { Clock } from "@bowline/kernel";

export type SilenceOptions = {
  limitMs: number;
  clock: Clock;
  silent: (limitMs: number) => void;
};

/** Looks come no more often, however many fall silent one after the other: each goes through all that are watched. */
const leastWaitMs = 25;

/** Calls `silent` once, when nothing was heard for the limit. Watches until `stop`, or until it has called. */
export function watchSilence(options: SilenceOptions): Silence {
  return new Silence(options);
}

export class Silence {
  readonly #watch: Watch;
  readonly #silent: (limitMs: number) => void;
  #limitMs: number;
  #heardAt: number;

  constructor({ limitMs, clock, silent }: SilenceOptions) {
    this.#watch = watchOf(clock);
    this.#silent = silent;
    this.#limitMs = limitMs;
    this.#heardAt = clock.monotonicMs();
    this.#watch.add(this);
  }

  /** When it is silent, if nothing is heard until then. */
  get dueAt(): number {
    return this.#heardAt + this.#limitMs;
  }

  /** The peer said something. Costs a clock reading, no timer. */
  heard(): void {
    this.#heardAt = this.#watch.clock.monotonicMs();
  }

  /** Another limit from now on; the greeting tells it. */
  limit(ms: number): void {
    this.#limitMs = ms;
    this.#watch.sooner(this);
  }

  /** Watches no longer. */
  stop(): void {
    this.#watch.remove(this);
  }

  told(): void {
    this.#silent(this.#limitMs);
  }
}

const watches = new WeakMap<Clock, Watch>();

function watchOf(clock: Clock): Watch {
  const watch = watches.get(clock) ?? new Watch(clock);
  watches.set(clock, watch);
  return watch;
}

class Watch {
  readonly clock: Clock;
  readonly #watched = new Set<Silence>();
  #running = false;
  #lookAt = Number.POSITIVE_INFINITY;
  #sleep = new AbortController();

  constructor(clock: Clock) {
    this.clock = clock;
  }

  add(silence: Silence): void {
    this.#watched.add(silence);
    if (this.#running) this.sooner(silence);
    else void this.#run();
  }

  sooner(silence: Silence): void {
    if (this.#watched.has(silence) && silence.dueAt < this.#lookAt) this.#sleep.abort();
  }

  remove(silence: Silence): void {
    this.#watched.delete(silence);
    if (this.#watched.size === 0) this.#sleep.abort(); // Q2
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#watched.size > 0) {
      const now = this.clock.monotonicMs();
      let next = Number.POSITIVE_INFINITY;
      for (const silence of this.#watched) {
        if (silence.dueAt > now) next = Math.min(next, silence.dueAt);
        else if (this.#watched.delete(silence)) silence.told(); // Q1
      }
      if (this.#watched.size === 0) break;
      this.#lookAt = next;
      this.#sleep = new AbortController();
      await this.clock.sleep(Math.max(next - now, leastWaitMs), this.#sleep.signal);
    }
    this.#running = false;
  }
}
