/**
 * An agent's disk: the log of its journal, and the counter of its assertions.
 * What was not synced may be lost at a crash, whole or in part.
 */
import type { JournalFile } from "@bowline/agent-core";
import type { Random } from "./random.ts";
import type { Process } from "./world.ts";

/** What of a disk survives; a copy of it is a backup, or a clone. */
export interface Kept {
  log: string | undefined;
  counter: number;
}

export class Disk {
  kept: Kept = { log: undefined, counter: 0 };
  full = false;
  /** Called before an append is on the disk, and after; a crash of the process in there is what a test of it wants. */
  around: ((when: "before" | "after") => void) | undefined;
  /** A defect for the mutation checks: it says that it has synced before it has. */
  lies = false;
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  copy(): Kept {
    return { ...this.kept };
  }

  /** The journal, as one process has it open. */
  file(process: Process): JournalFile {
    return {
      read: () => (this.kept.log === undefined ? undefined : Buffer.from(this.kept.log)),
      replace: async (lines) => {
        const text = [...lines].join("");
        await process.wait(this.#latency());
        this.kept = { ...this.kept, log: text };
        return text.length;
      },
      append: (text) => this.#append(process, text),
      close: () => Promise.resolve(),
    };
  }

  /** On the disk before it is used, as identity.ts does. */
  async nextCounter(process: Process, floor: number): Promise<number> {
    const counter = Math.max(this.kept.counter, floor) + 1;
    await process.wait(this.#latency());
    this.kept = { ...this.kept, counter };
    return counter;
  }

  async #append(process: Process, text: string): Promise<void> {
    if (this.full) {
      await process.wait(this.#latency());
      throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
    }
    const write = (part: string): void => void (this.kept = { ...this.kept, log: (this.kept.log ?? "") + part });
    if (this.lies) {
      process.after(60_000, () => write(text));
      return process.wait(0);
    }
    // At a crash the tail is torn anywhere, or whole though nobody was told.
    let under = true;
    const forget = process.atDeath(() => {
      if (under) write(text.slice(0, this.#random.below(text.length + 1)));
    });
    this.around?.("before");
    if (!process.alive) return new Promise(() => undefined);
    await process.wait(this.#latency());
    under = false;
    forget();
    write(text);
    this.around?.("after");
    if (!process.alive) return new Promise(() => undefined);
  }

  #latency(): number {
    return this.#random.chance(0.02) ? this.#random.between(100, 2_000) : this.#random.between(1, 10);
  }
}
