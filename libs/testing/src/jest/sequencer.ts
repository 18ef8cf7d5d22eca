/**
 * The longest files first, so that a run does not end with one worker that is
 * busy while the others have nothing left. Jest does so by itself from the
 * second run on; the first one in a clone knows only how large the files are.
 */
import { relative, sep } from "node:path";
import module from "@jest/test-sequencer";

/** Its types are those of its CommonJS form; what Node loads here is the class itself. */
const ByDuration = module as unknown as typeof module.default;
type Tests = Parameters<InstanceType<typeof ByDuration>["sort"]>[0];

/** Each takes more than 20 s on two cores; the longest first. */
export const longest: readonly string[] = [
  "services/cli/src/cli.test.ts",
  "tests/e2e/cli.test.ts",
  "tests/e2e/start.test.ts",
  "tests/e2e/gateways.test.ts",
  "tests/e2e/session-commands.test.ts",
  "services/control-plane/src/products/publishes.test.ts",
  "tests/e2e/polling.test.ts",
  "tests/e2e/hosts.test.ts",
  "tests/e2e/traces.test.ts",
  "tests/e2e/enrolment.test.ts",
  "tests/e2e/sessions.test.ts",
];

export default class LongestFirst extends ByDuration {
  override sort(tests: Tests): Tests {
    const sorted = super.sort(tests) as Tests; // with the durations of the last run, where there was one
    if (sorted.every(({ duration }) => duration !== undefined)) return sorted;
    return sorted.toSorted((one, other) => place(one) - place(other));
  }
}

function place({ path, context }: Tests[number]): number {
  const found = longest.indexOf(relative(context.config.rootDir, path).split(sep).join("/"));
  return found === -1 ? longest.length : found;
}
