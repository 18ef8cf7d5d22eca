/**
 * `npm run bench -- <scenario>`: measurements, never tests.
 *
 *   scenarios/smoke.ts      an idle control plane's memory, time to LIVE, commands per second
 *   scenarios/publishes.ts  what a publish costs the server and its PostgreSQL, also against another checkout
 *   scenarios/history.ts    what ended commands cost those who read every second
 */
import { parseArgs } from "node:util";
import { history } from "./scenarios/history.ts";
import { publishes } from "./scenarios/publishes.ts";
import { smoke } from "./scenarios/smoke.ts";

/** Rounds of each checkout: enough for a median with a spread. */
const defaultTurns = 7;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: "boolean" }, against: { type: "string" }, turns: { type: "string" } },
});
const json = values.json === true;
switch (positionals[0]) {
  case "smoke":
    await smoke({ json });
    break;
  case "publishes":
    await publishes({ json, against: values.against, turns: Number(values.turns ?? defaultTurns) });
    break;
  case "history":
    await history({ json });
    break;
  default:
    process.stderr.write(
      "npm run bench -- smoke [--json]\nnpm run bench -- history [--json]\nnpm run bench -- publishes [--turns 7] [--against FOLDER] [--json]\n",
    );
    process.exitCode = 2;
}
