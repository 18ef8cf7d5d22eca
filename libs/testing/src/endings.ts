/**
 * How what a test starts comes to its end without the test saying so.
 *
 * Whatever starts something (a process, a folder, a database) registers its
 * end here. What was registered while a test ran ends with that test; what was
 * registered outside of one (at the top of the file, in beforeAll) ends with
 * the file. Last started, first ended. jest/environment.ts runs the ends and
 * then looks for leaks.
 */

/** Ends one thing; called once, may fail: that fails the test. */
export type Ending = () => Promise<void> | void;

/** Where the environment leaves the register for the file that runs in it. */
export const endingsKey: unique symbol = Symbol.for("bowline.testing.endings") as never;

type Register = { add: (ending: Ending) => void };

/** Outside of jest (bench, scripts) nothing is registered: there the caller ends what it starts. */
export function atEnd(ending: Ending): void {
  (globalThis as { [endingsKey]?: Register })[endingsKey]?.add(ending);
}

/** The longest of them ends a Docker Engine with containers. One that hangs must not take the whole run with it. */
const endsWithinMs = 120_000;

/** Runs them in reverse order, all of them, and returns what they threw; one that takes longer than that is left. */
export async function runEndings(endings: Ending[], withinMs = endsWithinMs): Promise<unknown[]> {
  const errors: unknown[] = [];
  for (let ending = endings.pop(); ending !== undefined; ending = endings.pop()) {
    try {
      await within(withinMs, ending);
    } catch (error) {
      errors.push(error);
    }
  }
  return errors;
}

async function within(ms: number, ending: Ending): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`what the test started did not end within ${ms} ms: ${ending.toString()}`)),
      ms,
    );
  });
  try {
    await Promise.race([ending(), late]);
  } finally {
    clearTimeout(timer);
  }
}
