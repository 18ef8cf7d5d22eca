/**
 * `npm run bench -- <scenario>`: measurements, never tests.
 *
 *   scenarios/smoke.ts   an idle control plane's memory, time to LIVE, commands per second
 */
import { smoke } from "./scenarios/smoke.ts";

const scenarios: Record<string, (options: { json: boolean }) => Promise<void>> = { smoke };

const [name = "", ...flags] = process.argv.slice(2);
const scenario = scenarios[name];
if (scenario === undefined) {
  process.stderr.write(`npm run bench -- <scenario> [--json]\n\nscenarios: ${Object.keys(scenarios).join(", ")}\n`);
  process.exitCode = 2;
} else {
  await scenario({ json: flags.includes("--json") });
}
