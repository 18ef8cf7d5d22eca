/**
 * `npm run faults`: the scenarios, chosen, seeded, repeated, each with its
 * history checked. README.md says how to read what it prints.
 */
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { endingAfter, outsideJest } from "@bowline/testing";
import { invariants } from "./history/checker.ts";
import { type Report, runScenario, type Scenario } from "./scenario.ts";
import { scenarios } from "./scenarios/index.ts";
import { scaleFactor, startShared } from "./world/world.ts";

const help = `npm run faults -- [--only N[,N…]] [--seed S] [--repeat K] [--real-time] [--output json]

  --only 4,12    these scenarios; without it all
  --seed 7       what it chooses follows from the seed (default: 1); a repetition adds one
  --repeat 5     each scenario so often, each time with another seed
  --real-time    times above a minute as they are, not divided by ${scaleFactor}
  --output json  one line per scenario, for programs; timesDividedBy is 1 with --real-time
  --list         the scenarios and what each tries to break

Examples:
  npm run faults                                  all of them, each once
  npm run faults -- --only 12 --seed 7            again what a seed has shown
  npm run faults -- --repeat 20 --only 5,6,7      three of them with the seeds 1 to 20
  npm run faults -- --real-time --only 13         a partition of ten minutes takes ten minutes
  npm -s run faults -- --output json | jq .file   the histories that were kept

Exit codes: 0 nothing was violated, 1 something was, 2 wrong usage.
A history in which something was violated stays in .cache/faults.
`;

const folder = fileURLToPath(new URL("../../.cache/faults", import.meta.url));
/** More would run for days. */
const mostRepeats = 10_000;

interface Settings {
  chosen: readonly Scenario[];
  seed: number;
  repeat: number;
  realTime: boolean;
  json: boolean;
}

const settings = read(process.argv.slice(2));
if (settings !== undefined) process.exit(await outsideJest(() => runAll(settings)));

function read(args: string[]): Settings | undefined {
  const options = {
    only: { type: "string" },
    seed: { type: "string", default: "1" },
    repeat: { type: "string", default: "1" },
    "real-time": { type: "boolean", default: false },
    output: { type: "string", default: "text" },
    list: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  } as const;
  try {
    const { values } = parseArgs({ args, options, strict: true });
    if (values.help) return void process.stdout.write(help);
    if (values.list) return void process.stdout.write(scenarios.map((one) => `${titleOf(one)}\n`).join(""));
    if (values.output !== "text" && values.output !== "json")
      throw new Error(`--output ${values.output}: text or json`);
    return {
      chosen: choose(values.only),
      seed: wholeNumber("--seed", values.seed, 0, 2 ** 32 - 1),
      repeat: wholeNumber("--repeat", values.repeat, 1, mostRepeats),
      realTime: values["real-time"],
      json: values.output === "json",
    };
  } catch (error) {
    process.stderr.write(`faults: ${(error as Error).message}\n\n${help}`);
    process.exitCode = 2;
    return undefined;
  }
}

function choose(only: string | undefined): readonly Scenario[] {
  if (only === undefined) return scenarios;
  return only.split(",").map((text) => {
    const found = scenarios.find(({ number }) => String(number) === text.trim());
    if (found === undefined) throw new Error(`--only ${text}: there is no such scenario; --list names them`);
    return found;
  });
}

function wholeNumber(flag: string, text: string, least: number, most: number): number {
  const number = Number(text);
  if (/^[0-9]+$/.test(text) && number >= least && number <= most) return number;
  throw new Error(`${flag} ${text}: a whole number from ${least} to ${most}`);
}

async function runAll({ chosen, seed, repeat, realTime, json }: Settings): Promise<number> {
  mkdirSync(folder, { recursive: true });
  const say = (text: string): void => void (json ? undefined : process.stdout.write(`${text}\n`));
  say(realTime ? "times are as they are" : `times above a minute are divided by ${scaleFactor}`);
  const shared = await startShared(chosen.flatMap(({ needs = [] }) => needs));
  let violated = 0;
  for (let round = 0; round < repeat; round += 1) {
    for (const scenario of chosen) {
      const report = await carriedOut(scenario, { seed: seed + round, shared, realTime, folder });
      if (report.failure !== "" || report.violations.length > 0) violated += 1;
      if (json) process.stdout.write(`${JSON.stringify(report)}\n`);
      else say(textOf(report));
    }
  }
  say(violated === 0 ? `${chosen.length * repeat} histories, nothing violated` : `${violated} violated`);
  return violated === 0 ? 0 : 1;
}

/** What a scenario started and could not be ended is a failure of it. */
async function carriedOut(scenario: Scenario, options: Parameters<typeof runScenario>[1]): Promise<Report> {
  let report: Report | undefined;
  try {
    await endingAfter(async () => void (report = await runScenario(scenario, options)));
  } catch (error) {
    const { number, title } = scenario;
    const none = {
      ...{ number, title, seed: options.seed, timesDividedBy: options.realTime ? 1 : scaleFactor },
      ...{ violations: [], tookMs: 0, entries: 0, file: "" },
    };
    report = { ...none, ...report, failure: `${report?.failure ?? ""}\n${String(error)}` };
  }
  if (report === undefined) throw new Error("a scenario ended without a report");
  return report;
}

function titleOf({ number, title, tries }: Scenario): string {
  return `${String(number).padStart(2)}  ${title}  [${tries.join(" ")}]`;
}

function textOf({ number, title, seed, violations, failure, tookMs, entries, file }: Report): string {
  const head = `${failure === "" && violations.length === 0 ? "ok      " : "VIOLATED"} ${String(number).padStart(2)}  ${title}`;
  const lines = [`${head}  (seed ${seed}, ${(tookMs / 1_000).toFixed(1)} s, ${entries} entries)`];
  for (const { invariant, subject, message } of violations)
    lines.push(`  ${invariant} (${invariants[invariant]}): ${subject} ${message}`);
  if (failure !== "") lines.push(`  it could not be carried out: ${failure}`);
  if (file !== "") lines.push(`  history: ${file}`, `  again: npm run faults -- --only ${number} --seed ${seed}`);
  return lines.join("\n");
}
