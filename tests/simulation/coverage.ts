/** Which transitions of the table in transitions.ts histories took. */
import { transitions } from "../../services/control-plane/src/commands/index.ts";

/** Pairs of the table that the engine's statements never bring together, and why. */
const unreachable = {
  "CANCELLING back-with-another-journal":
    "a complete Sync without the command proves that it has ended, whatever the journal (decisions.ts)",
} as const satisfies Record<string, string>;

export class Coverage {
  readonly #taken: Map<string, number>;

  /** `taken`: what another one counted, for instance in another thread. */
  constructor(taken: ReadonlyMap<string, number> = new Map()) {
    this.#taken = new Map(taken);
  }

  get taken(): ReadonlyMap<string, number> {
    return this.#taken;
  }

  took(from: string, event: string, to: string): void {
    this.#add(`${from} ${event}`);
    this.#add(`${from} ${event} ${to}`);
  }

  add(other: Coverage): void {
    for (const [key, count] of other.#taken) this.#add(key, count);
  }

  #add(key: string, count = 1): void {
    this.#taken.set(key, (this.#taken.get(key) ?? 0) + count);
  }

  /** Each pair of state and event with how often it was taken, and where to. */
  pairs(): { from: string; event: string; count: number; to: { state: string; count: number }[] }[] {
    return Object.entries(transitions).flatMap(([from, events]) =>
      Object.entries(events as Record<string, readonly string[]>).map(([event, targets]) => ({
        ...{ from, event, count: this.#taken.get(`${from} ${event}`) ?? 0 },
        to: targets.map((state) => ({ state, count: this.#taken.get(`${from} ${event} ${state}`) ?? 0 })),
      })),
    );
  }

  /** Pairs that were never taken and can be, as `STATE event`. */
  missing(): string[] {
    return this.pairs()
      .filter(({ count }) => count === 0)
      .map(({ from, event }) => `${from} ${event}`)
      .filter((pair) => !(pair in unreachable));
  }
}
