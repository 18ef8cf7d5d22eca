/**
 * What is attached to this data plane, and the one table that serves it.
 *
 * A1: a new generation takes over in one assignment. A request holds the entry
 *     that it found and ends with it.
 * A2: what cannot be compiled changes nothing.
 */
import type { AttachedStatus } from "../document.ts";
import type { AttachedDocument } from "../document.ts";
import { compileRoutes, type Compiled } from "./compile.ts";
import type { Counters } from "./served.ts";
import { buildTable, type Asked, type Entry, type Table } from "./table.ts";

export class Attached {
  #served = new Map<string, Compiled>();
  #table: Table = buildTable([]);
  /** Outlives generations, and a removal while requests are in flight. */
  #counters = new Map<string, Counters>();

  find(asked: Asked): Entry | undefined {
    return this.#table.find(asked);
  }

  /** Generation of a deployment in the table now; undefined: it is not served. */
  generation(deploymentId: string): number | undefined {
    return this.#served.get(deploymentId)?.deployment.generation;
  }

  /** Takes a generation over from whichever was there. Throws a Refusal (A2). */
  put(document: AttachedDocument): void {
    this.putAll([document], (_, error) => {
      throw error;
    });
  }

  /** As `put`, for many with one new table. Those that are refused are left out and told. */
  putAll(documents: readonly AttachedDocument[], refused: (document: AttachedDocument, error: unknown) => void): void {
    const served = new Map(this.#served);
    const retired: Compiled[] = [];
    for (const document of documents) {
      const { deploymentId } = document;
      const counters = this.#counters.get(deploymentId) ?? { requests: 0, inFlight: 0, answers: {} };
      let compiled: Compiled;
      try {
        compiled = compileRoutes(document, counters);
      } catch (error) {
        refused(document, error);
        continue;
      }
      const before = served.get(deploymentId);
      if (before !== undefined) {
        sharePools(before, compiled);
        retired.push(before);
      }
      this.#counters.set(deploymentId, counters);
      served.set(deploymentId, compiled);
    }
    this.#swap(served, retired);
  }

  /** False: it was not there. */
  delete(deploymentId: string): boolean {
    const served = new Map(this.#served);
    const before = served.get(deploymentId);
    if (before === undefined) return false;
    served.delete(deploymentId);
    this.#counters.delete(deploymentId);
    this.#swap(served, [before]);
    return true;
  }

  status(): AttachedStatus[] {
    return [...this.#served.values()].map(({ deployment: { id, generation, counters } }) => ({
      deploymentId: id,
      generation,
      ...counters,
    }));
  }

  /** Lets all idle connections go. */
  close(): void {
    for (const compiled of this.#served.values()) drainAll(compiled);
  }

  /** A1. */
  #swap(served: Map<string, Compiled>, retired: readonly Compiled[]): void {
    this.#table = buildTable([...served.values()].flatMap(({ entries }) => entries));
    this.#served = served;
    const used = new Set([...served.values()].flatMap(({ backends }) => backends.map(({ pool }) => pool)));
    for (const { backends } of retired) {
      for (const { pool } of backends) if (!used.has(pool)) pool.drain();
    }
  }
}

/** A backend that stays where it was keeps its connections. */
function sharePools(before: Compiled, after: Compiled): void {
  const pools = new Map(before.backends.map(({ pool }) => [pool.key, pool]));
  for (const backend of after.backends) backend.pool = pools.get(backend.pool.key) ?? backend.pool;
}

function drainAll({ backends }: Compiled): void {
  for (const { pool } of backends) pool.drain();
}
