/**
 * What is open now, by forward and target: connections, and the flows of UDP.
 *
 * D1: what goes to a target that is neither led to nor rests may last for the
 *     forward's drain, from the document on that said so; then it is cut.
 * D2: there are never more than `limit`; who comes then is turned away.
 */
import type { ForwardDocument } from "@bowline/agent-core/forwards";

interface Group {
  forward: string;
  key: string;
  cuts: Set<() => void>;
  drain?: NodeJS.Timeout;
}

export class Relays {
  readonly #groups = new Map<string, Group>();
  readonly #limit: number;
  /** Called when a target that is drained has lost its last connection. */
  readonly #drained: () => void;
  #open = 0;
  #led = new Set<string>();
  #resting = new Set<string>();
  #drainMs = new Map<string, number>();

  constructor(limit: number, drained: () => void) {
    this.#limit = limit;
    this.#drained = drained;
  }

  get full(): boolean {
    return this.#open >= this.#limit; // D2
  }

  /** Notes something open; `cut` ends it. Returns how to note its end, which may be called more than once. */
  add(forward: string, key: string, cut: () => void): () => void {
    const name = `${forward} ${key}`;
    const group = this.#groups.get(name) ?? { forward, key, cuts: new Set() };
    this.#groups.set(name, group);
    group.cuts.add(cut);
    this.#open += 1;
    this.#look(group); // its target may have been taken away since it was chosen
    return () => {
      if (!group.cuts.delete(cut)) return;
      this.#open -= 1;
      if (group.cuts.size > 0) return;
      if (this.#groups.get(name) === group) this.#groups.delete(name);
      if (group.drain === undefined) return;
      clearTimeout(group.drain);
      this.#drained();
    };
  }

  /** A new document is in force. */
  update({ forwards, resting }: ForwardDocument): void {
    this.#led = new Set(
      forwards.flatMap(({ name, backends }) =>
        backends.flatMap(({ targets }) => targets.map(({ key }) => `${name} ${key}`)),
      ),
    );
    this.#resting = new Set(resting);
    for (const { name, drainMs } of forwards) this.#drainMs.set(name, drainMs); // that of a removed forward stays
    for (const group of this.#groups.values()) {
      this.#look(group);
      // Without a drain at once: whoever hears that the document is in force finds nothing of the one before.
      if (group.drain !== undefined && this.#drainOf(group) === 0) cutGroup(group);
    }
  }

  /** Keys of targets that are drained and have something open. */
  draining(): string[] {
    return [
      ...new Set([...this.#groups.values()].filter(({ drain }) => drain !== undefined).map(({ key }) => key)),
    ].sort();
  }

  /** Ends all of it. */
  cutAll(): void {
    for (const group of this.#groups.values()) cutGroup(group);
  }

  #look(group: Group): void {
    const stays = this.#led.has(`${group.forward} ${group.key}`) || this.#resting.has(group.key);
    if (stays) {
      clearTimeout(group.drain);
      delete group.drain;
    } else group.drain ??= setTimeout(cutGroup, this.#drainOf(group), group); // D1
  }

  #drainOf({ forward }: Group): number {
    return this.#drainMs.get(forward) ?? 0;
  }
}

function cutGroup({ cuts }: Group): void {
  for (const cut of [...cuts]) cut();
}
