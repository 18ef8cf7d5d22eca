/**
 * What is here, without jest: a program that starts real servers and databases
 * (`npm run faults`) ends them as a test does.
 *
 *     await outsideJest(async () => {          // a PostgreSQL for all of it
 *       await endingAfter(async () => { … });  // what this starts ends after it
 *     });
 */
import { fileURLToPath } from "node:url";
import { type Ending, endingsKey, runEndings } from "./endings.ts";
import globalSetup from "./jest/global-setup.ts";
import globalTeardown from "./jest/global-teardown.ts";

const rootDir = fileURLToPath(new URL("../../..", import.meta.url));

/** As a shell says it of Ctrl-C. */
const interruptedCode = 130;

type Global = { [endingsKey]?: { add: (ending: Ending) => void } };

/** What is open now, innermost last: for a program that is interrupted. */
const open: Ending[][] = [];

/** Interrupted: what is open ends, and nothing begins or goes on after that. */
let interruption: Promise<never> | undefined;

/** Runs `work` with the tests' PostgreSQL at hand, which starts when it is first asked for; Ctrl-C ends it all. */
export async function outsideJest<T>(work: () => Promise<T>): Promise<T> {
  await globalSetup(undefined, { rootDir });
  const interrupted = (): void => {
    interruption ??= (async () => {
      for (const endings of open.toReversed()) await runEndings(endings);
      await globalTeardown();
      return process.exit(interruptedCode);
    })();
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, interrupted);
  try {
    return await endingAfter(work);
  } finally {
    await globalTeardown();
  }
}

/** Runs `work`, then ends what it started; what ends with an error fails it. */
export async function endingAfter<T>(work: () => Promise<T>): Promise<T> {
  if (interruption !== undefined) return interruption;
  const endings: Ending[] = [];
  const outer = (globalThis as Global)[endingsKey];
  (globalThis as Global)[endingsKey] = { add: (ending) => endings.push(ending) };
  open.push(endings);
  const ended = async (): Promise<void> => {
    if (outer === undefined) delete (globalThis as Global)[endingsKey];
    else (globalThis as Global)[endingsKey] = outer;
    const errors = await runEndings(endings);
    open.splice(open.indexOf(endings), 1);
    if (errors.length > 0) throw new AggregateError(errors, errors.map(String).join("\n"));
  };
  const result = await work().catch(async (error: unknown) => {
    if (interruption !== undefined) return interruption; // it failed of that
    await ended();
    throw error;
  });
  if (interruption !== undefined) return interruption;
  await ended();
  return result;
}
