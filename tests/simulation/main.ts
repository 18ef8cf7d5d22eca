/**
 * `npm run simulate -- --histories 10000 --seed S`: the command engine under
 * seeded faults. Exit code 1 where an invariant was violated.
 */
import { parseArgs } from "node:util";
import type { Violation } from "./checker.ts";
import { Coverage } from "./coverage.ts";
import { simulate } from "./history.ts";

const { values } = parseArgs({
  options: {
    histories: { type: "string", default: "1000" },
    seed: { type: "string", default: String(Date.now()) },
    "only-seed": { type: "string" },
    trace: { type: "boolean", default: false },
    coverage: { type: "boolean", default: false },
    "keep-going": { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

const help = `Simulates the command engine: seeded histories with faults, checked for invariants.

  npm run simulate -- --histories 10000 --seed S    that many, named S/1, S/2 and so on
  npm run simulate -- --only-seed S/17 --trace      one of them again, with all that happened

  --histories N   how many (1000)
  --seed S        what they are drawn from (the time)
  --only-seed S   one history
  --trace         print what happened in it
  --coverage      print how often each transition was taken
  --keep-going    go on behind a violation
`;

async function one(seed: string): Promise<boolean> {
  const history = await simulate(seed, { trace: values.trace });
  for (const line of history.trace) process.stdout.write(`${line}\n`);
  if (history.violations.length === 0) process.stdout.write(`${seed}: ${history.commands} commands, no violation\n`);
  for (const violation of history.violations) told(seed, violation);
  return history.violations.length === 0;
}

function told(seed: string, { invariant, at, text }: Violation): void {
  process.stdout.write(`seed ${seed}: ${invariant} violated at ${(at / 1000).toFixed(3)} s: ${text}\n`);
}

/** The same history with as few of its faults as still violate. */
async function shrunk(seed: string, faults: number): Promise<void> {
  for (let most = 0; most < faults; most += 1) {
    const { violations, trace } = await simulate(seed, { trace: true, maxFaults: most });
    if (violations.length === 0) continue;
    process.stdout.write(`with its first ${most} of ${faults} faults:\n${trace.slice(-200).join("\n")}\n`);
    return;
  }
  const { trace } = await simulate(seed, { trace: true });
  process.stdout.write(`${trace.slice(-200).join("\n")}\n`);
}

async function many(): Promise<boolean> {
  const total = Number(values.histories);
  const coverage = new Coverage();
  const startedAt = performance.now();
  let commands = 0;
  let violated = 0;
  for (let number = 1; number <= total; number += 1) {
    const seed = `${values.seed}/${number}`;
    const history = await simulate(seed);
    coverage.add(history.coverage);
    commands += history.commands;
    if (history.violations.length === 0) continue;
    violated += 1;
    for (const violation of history.violations.slice(0, 3)) told(seed, violation);
    if (values["keep-going"]) continue;
    await shrunk(seed, history.faults.length);
    break;
  }
  const seconds = (performance.now() - startedAt) / 1000;
  process.stdout.write(
    `${total} histories with ${commands} commands in ${seconds.toFixed(1)} s: ${(total / seconds).toFixed(0)} per second; ${violated} with a violation\n`,
  );
  const missing = coverage.missing();
  if (missing.length > 0) process.stdout.write(`transitions never taken: ${missing.join(", ")}\n`);
  if (values.coverage)
    for (const { from, event, count, to } of coverage.pairs())
      process.stdout.write(
        `${String(count).padStart(8)} ${from} ${event}: ${to.map((one) => `${one.state} ${one.count}`).join(", ")}\n`,
      );
  return violated === 0;
}

if (values.help) process.stdout.write(help);
else {
  const only = values["only-seed"];
  process.exitCode = (await (only === undefined ? many() : one(only))) ? 0 : 1;
}
