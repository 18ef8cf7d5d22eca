/**
 * Which instance gets the next connection.
 *
 * W1: among backends that have targets, smooth weighted choice: in each run of
 *     as many choices as the weights add up to, each backend has exactly its
 *     share, spread as evenly as can be.
 * W2: within a backend, one target after the other.
 * W3: a target that does not take the connection is followed by the next, each
 *     at most once: those of its own backend first.
 */
import type { ForwardDocumentEntry, ForwardTarget } from "@bowline/agent-core/forwards";

interface Place {
  name: string;
  weight: number;
  targets: readonly ForwardTarget[];
  /** What it is owed (W1). */
  credit: number;
  /** Of the target whose turn it is (W2). */
  next: number;
}

export class Choice {
  #places: Place[] = [];

  constructor(backends: ForwardDocumentEntry["backends"]) {
    this.update(backends);
  }

  /** From the next choice on. Whoever keeps its name and weight keeps its place in the turn. */
  update(backends: ForwardDocumentEntry["backends"]): void {
    const before = new Map(this.#places.map((place) => [place.name, place]));
    const same =
      before.size === backends.length && backends.every(({ name, weight }) => before.get(name)?.weight === weight);
    this.#places = backends.map(({ name, weight, targets }) => ({
      name,
      weight,
      targets,
      credit: same ? (before.get(name)?.credit ?? 0) : 0,
      next: before.get(name)?.next ?? 0,
    }));
  }

  /** The targets for one new connection, in the order in which they are tried (W3). Empty: there is none. */
  *targets(): Generator<ForwardTarget> {
    const places = this.#places.filter(({ targets }) => targets.length > 0);
    const [first, ...others] = inTurn(places);
    if (first === undefined) return;
    for (const place of [first, ...others]) {
      const { targets } = place;
      const start = place.next % targets.length;
      if (place === first) place.next = (start + 1) % targets.length; // W2; who only stands in keeps its turn
      yield* targets.slice(start);
      yield* targets.slice(0, start);
    }
  }
}

/** W1: the one whose turn it is, then the others by what they are owed. */
function inTurn(places: Place[]): Place[] {
  let total = 0;
  for (const place of places) {
    place.credit += place.weight;
    total += place.weight;
  }
  const order = places.toSorted((a, b) => b.credit - a.credit);
  if (order[0] !== undefined) order[0].credit -= total;
  return order;
}
