/** Each scenario once; `npm run faults` chooses, repeats and seeds them. The seed is in the name of what fails. */
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "@jest/globals";
import { runScenario } from "./scenario.ts";
import { scenarios } from "./scenarios/index.ts";
import { type Shared, startShared } from "./world/world.ts";

/** Each wait of a scenario has a bound of its own, most a minute: that is to tell what did not come, not this. */
const endsWithinMs = 600_000;
/** The same in every run, so that a failure of CI is one here. */
const seed = 1;
const folder = fileURLToPath(new URL("../../.cache/faults", import.meta.url));

let shared: Shared;
beforeAll(async () => {
  shared = await startShared(scenarios.flatMap(({ needs = [] }) => needs));
}, 120_000);

test.each(scenarios.map((scenario) => [`${scenario.number} ${scenario.title}`, scenario] as const))(
  "%s",
  async (_, scenario) => {
    const { violations, failure, file } = await runScenario(scenario, { seed, shared, realTime: false, folder });
    expect({ violations, failure, file }).toEqual({ violations: [], failure: "", file: "" });
  },
  endsWithinMs,
);
