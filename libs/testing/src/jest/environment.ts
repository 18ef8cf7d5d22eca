/**
 * The environment of every test file: runs the ends that were registered
 * (endings.ts) after each test and after the file, then fails the file for
 * what it left behind (leaks.ts).
 *
 * It is an environment and not an afterAll, because jest runs a shared
 * afterAll before those of the file itself.
 */
import type { Circus } from "@jest/types";
import { TestEnvironment } from "jest-environment-node";
import { endingsKey, runEndings, type Ending } from "../endings.ts";
import { findLeaks, takeSnapshot, type Snapshot } from "../leaks.ts";

export default class BowlineEnvironment extends TestEnvironment {
  #before: Snapshot | undefined;
  #fileEndings: Ending[] = [];
  #testEndings: Ending[] | undefined;

  override async setup(): Promise<void> {
    await super.setup();
    const register = { add: (ending: Ending) => (this.#testEndings ?? this.#fileEndings).push(ending) };
    Object.assign(this.global, { [endingsKey]: register });
    this.#before = takeSnapshot();
  }

  async handleTestEvent(event: Circus.Event, state: Circus.State): Promise<void> {
    switch (event.name) {
      case "test_start":
        this.#testEndings = [];
        break;
      case "test_done":
        event.test.errors.push(...(await runEndings(this.#testEndings ?? [])).map(asError));
        this.#testEndings = undefined;
        break;
      case "run_finish": {
        state.unhandledErrors.push(...(await runEndings(this.#fileEndings)).map(asError));
        const leaks = this.#before === undefined ? [] : await findLeaks(this.#before);
        if (leaks.length > 0) state.unhandledErrors.push(new Error(`The file leaves behind:\n  ${leaks.join("\n  ")}`));
        break;
      }
      default: // The other events change nothing here.
    }
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
