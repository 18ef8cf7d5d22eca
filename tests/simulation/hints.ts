/** Redis: hints between replicas, late or never. */
import type { Random } from "./random.ts";
import type { Process, World } from "./world.ts";

export type Hint =
  | { kind: "wake"; agentIds: readonly string[] }
  | { kind: "tell"; agentIds: readonly string[] }
  | { kind: "look"; agentIds: readonly string[] };

export class Hints {
  lost = 0.05;
  readonly #world: World;
  readonly #random: Random;

  constructor(world: World, random: Random) {
    this.#world = world;
    this.#random = random;
  }

  send(to: { process: Process; hear(hint: Hint): void } | undefined, hint: Hint): void {
    if (to === undefined || this.#random.chance(this.lost)) return;
    const late = this.#random.chance(0.05) ? this.#random.between(500, 8_000) : this.#random.between(1, 10);
    this.#world.at(late, () => to.process.after(0, () => to.hear(hint)));
  }
}
