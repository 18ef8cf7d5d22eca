/**
 * `npm run simulate -- --histories 10000 --seed S`: the command engine under
 * seeded faults. Exit code 0 where nothing is violated, 1 where something is,
 * 2 for wrong usage, 130 after Ctrl-C.
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import type { Violation } from "./checker.ts";
import { simulate } from "./history.ts";
import { type Found, simulateMany, type Total } from "./many.ts";

const help = `Simulates the command engine: seeded histories with faults, checked for the invariants A to I.

  npm run simulate                                     a thousand histories, another seed each time
  npm run simulate -- --histories 10000 --seed S       S/1 to S/10000, on all cores: some minutes
  npm run simulate -- --seed S --only 17 --trace       S/17 again, to the millisecond, with all that happened
  npm run -s simulate -- --seed S --json               the result as one JSON document

  --histories N   how many (1000)
  --seed S        what they are drawn from (the time)
  --only N        one history of this seed
  --trace         print what happened in it
  --coverage      print how often each transition was taken
  --keep-going    go on behind a violation
  --jobs N        threads (one for each core)
  --json          print a JSON document instead
  --help

Exit code: 0 nothing was violated, 1 something was, 2 wrong usage, 130 after Ctrl-C.
tests/simulation/README.md has what is real, what is modelled, and how to read a trace.
`;

/** Lines at the end of a trace: a violation's own minute, and what led to it. */
const lastLines = 200;

function readFlags() {
  const { values } = parseArgs({
    options: {
      histories: { type: "string", default: "1000" },
      seed: { type: "string", default: String(Date.now()) },
      only: { type: "string" },
      trace: { type: "boolean", default: false },
      coverage: { type: "boolean", default: false },
      "keep-going": { type: "boolean", default: false },
      jobs: { type: "string", default: String(availableParallelism()) },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const whole = (flag: "histories" | "jobs" | "only", text: string): number => {
    if (!/^[1-9][0-9]{0,8}$/.test(text)) throw new RangeError(`--${flag} ${text}: give a whole number from 1 on`);
    return Number(text);
  };
  return {
    ...values,
    histories: whole("histories", values.histories),
    jobs: whole("jobs", values.jobs),
    only: values.only === undefined ? undefined : whole("only", values.only),
  };
}

type Flags = ReturnType<typeof readFlags>;

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const told = (seed: string, { invariant, at, text }: Violation): string =>
  `seed ${seed}: ${invariant} violated at ${(at / 1000).toFixed(3)} s: ${text}`;

async function one(flags: Flags, number: number): Promise<number> {
  const history = await simulate(`${flags.seed}/${number}`, { trace: flags.trace });
  const { seed, violations, faults, commands, tookMs, trace } = history;
  if (flags.json) say(JSON.stringify({ seed, commands, virtualMs: tookMs, faults, violations, trace }));
  else {
    for (const line of trace) say(line);
    if (violations.length === 0) say(`${seed}: ${commands} commands, no violation`);
    for (const violation of violations) say(told(seed, violation));
  }
  return violations.length === 0 ? 0 : 1;
}

/** The same history with as few of its faults as still violate. */
async function shrunk(seed: string, { faults }: Found): Promise<void> {
  let most = 0;
  let history = await simulate(seed, { trace: true, maxFaults: most });
  while (history.violations.length === 0 && most < faults)
    history = await simulate(seed, { trace: true, maxFaults: (most += 1) });
  say(`with its first ${most} of ${faults} faults:`);
  for (const line of history.trace.slice(-lastLines)) say(line);
}

async function many(flags: Flags): Promise<number> {
  const interrupted = new AbortController();
  const interrupt = (): void => interrupted.abort();
  process.once("SIGINT", interrupt);
  process.once("SIGTERM", interrupt);
  const startedAt = performance.now();
  const secondsSince = (): number => (performance.now() - startedAt) / 1000;
  const shows = process.stderr.isTTY && !flags.json;
  const total = await simulateMany({
    ...{ seed: flags.seed, histories: flags.histories, jobs: flags.jobs, keepsGoing: flags["keep-going"] },
    signal: interrupted.signal,
    progress: (done) => {
      if (shows)
        process.stderr.write(`\r${done} of ${flags.histories}, ${(done / secondsSince()).toFixed(0)} per second `);
    },
  });
  process.off("SIGINT", interrupt);
  process.off("SIGTERM", interrupt);
  if (shows) process.stderr.write("\r\u001b[K");
  if (flags.json) say(JSON.stringify(documentOf(flags, total, secondsSince())));
  else await report(flags, total, secondsSince());
  if (interrupted.signal.aborted) return 130;
  return total.found.length === 0 ? 0 : 1;
}

function documentOf({ seed, histories }: Flags, total: Total, seconds: number) {
  const { found, coverage, commands, virtualMs } = total;
  return {
    ...{ seed, asked: histories, histories: total.histories, commands, virtualMs, seconds },
    violated: found.map(({ number, violations }) => ({ seed: `${seed}/${number}`, violations })),
    missing: coverage.missing(),
    transitions: coverage.pairs(),
  };
}

async function report(flags: Flags, { histories, commands, found, coverage }: Total, seconds: number): Promise<void> {
  for (const { number, violations } of found) {
    for (const violation of violations.slice(0, 3)) say(told(`${flags.seed}/${number}`, violation));
    say(`  again: npm run simulate -- --seed ${flags.seed} --only ${number} --trace`);
  }
  if (found[0] !== undefined && !flags["keep-going"]) await shrunk(`${flags.seed}/${found[0].number}`, found[0]);
  if (histories < flags.histories) say(`ended after ${histories} of ${flags.histories}`);
  say(
    `${histories} histories with ${commands} commands in ${seconds.toFixed(1)} s: ${(histories / seconds).toFixed(0)} per second; ${found.length} with a violation`,
  );
  const missing = coverage.missing();
  if (missing.length > 0) say(`transitions never taken: ${missing.join(", ")}`);
  if (!flags.coverage) return;
  for (const { from, event, count, to } of coverage.pairs())
    say(`${String(count).padStart(8)} ${from} ${event}: ${to.map((way) => `${way.state} ${way.count}`).join(", ")}`);
}

function flagsOrUsage(): Flags | undefined {
  try {
    return readFlags();
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\nnpm run simulate -- --help\n`);
    return undefined;
  }
}

const flags = flagsOrUsage();
if (flags === undefined) process.exitCode = 2;
else if (flags.help) process.stdout.write(help);
else process.exitCode = await (flags.only === undefined ? many(flags) : one(flags, flags.only));
