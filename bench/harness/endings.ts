/**
 * What a run starts ends with it: in order, at Ctrl-C, and where a scenario
 * throws. Last started, first ended.
 */

import { endingsKey } from "@bowline/testing";

type Ending = () => unknown;

/** Ends one after the other; what one throws is told and does not keep the others. */
export function createEndings(told: (text: string) => void) {
  const endings: Ending[] = [];
  const add = (ending: Ending): void => void endings.push(ending);
  // What libs/testing starts ends here too, also where its start was waited for in vain.
  (globalThis as { [endingsKey]?: { add: typeof add } })[endingsKey] = { add };
  return {
    add,
    async run(): Promise<void> {
      for (let ending = endings.pop(); ending !== undefined; ending = endings.pop()) {
        try {
          await ending();
        } catch (error) {
          told(`an end failed: ${(error instanceof Error ? error.message : String(error)).split("\n", 1)[0]}`);
        }
      }
    },
  };
}

export type Endings = ReturnType<typeof createEndings>;

/** Aborts at the first Ctrl-C or SIGTERM; a second one is left to Node, which ends at once. */
export function interruption(): AbortSignal {
  const asked = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.once(signal, () => asked.abort(new Interrupted(signal)));
  return asked.signal;
}

export class Interrupted extends Error {
  constructor(signal: string) {
    super(`ended by ${signal}`);
  }
}
