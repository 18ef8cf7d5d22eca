/**
 * `npm run bench -- <scenario>`: measurements, never tests.
 *
 *   harness/    rounds, figures, limits, reports      stand/   databases, servers, peers of a run
 *   load/       agents and callers, a process of its own
 *   peers/      others' queues in the place of our engine     wires/  others' servers of streams
 *   scenarios/  one file each
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Arguments, readArguments, UsageError } from "./harness/arguments.ts";
import { createEndings, interruption } from "./harness/endings.ts";
import { judge } from "./harness/figures.ts";
import { describeMachine } from "./harness/machine.ts";
import { profilesOf } from "./harness/profiles.ts";
import { asJson, asMarkdown, type Report, type Void } from "./harness/report.ts";
import type { Scenario } from "./harness/scenario.ts";
import { dispatch } from "./scenarios/dispatch.ts";
import { connections } from "./scenarios/connections.ts";
import { growth } from "./scenarios/growth.ts";
import { heartbeats } from "./scenarios/heartbeats.ts";
import { latency } from "./scenarios/latency.ts";
import { redisDown } from "./scenarios/redis-down.ts";
import { statements } from "./scenarios/statements.ts";
import { storm } from "./scenarios/storm.ts";
import { twoReplicas } from "./scenarios/two-replicas.ts";
import { history } from "./scenarios/history.ts";
import { publishes } from "./scenarios/publishes.ts";
import { smoke } from "./scenarios/smoke.ts";
import { stream } from "./scenarios/stream.ts";
import { openStand } from "./stand/stand.ts";

/** With a limit each, in the order in which `all` runs them. */
const scenarios: readonly Scenario[] = [
  dispatch,
  latency,
  stream,
  growth,
  redisDown,
  twoReplicas,
  connections,
  heartbeats,
  storm,
];
/** Older ones, which print what they measure and have no limit. */
const surveys = {
  smoke: { what: "an idle control plane's memory, time to LIVE, the whole path", run: smoke },
  publishes: {
    what: "what a publish costs the server and its PostgreSQL, also against another checkout",
    run: ({ json, against, rounds }: Arguments) => publishes({ json, against, turns: rounds }),
  },
  statements: { what: "what PostgreSQL is asked for one command", run: statements },
  history: { what: "what ended commands cost those who read every second", run: history },
} as const;

/** Of ten minutes: no round begins that would end later, and what is measured then is left out. */
const lastRoundMs = 8.75 * 60_000;
const latestMs = 9.5 * 60_000;

/** A server that was on its way up when Ctrl-C came is there, or has failed, by then. */
const startedLateMs = 45_000;

const say = (text: string): void => void process.stderr.write(`${text}\n`);
process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  let given: Arguments | "help";
  try {
    given = readArguments(args);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    say(`bench: ${error.message}\n\n${help()}`);
    return 2;
  }
  if (given === "help") {
    process.stdout.write(`${help()}\n`);
    return 0;
  }
  const { scenario: name } = given;
  if (Object.hasOwn(surveys, name)) {
    await surveys[name as keyof typeof surveys].run(given);
    return 0;
  }
  const chosen = name === "all" ? scenarios : scenarios.filter((one) => one.name === name);
  if (chosen.length === 0) {
    say(`bench: there is no scenario ${name}.\n\n${help()}`);
    return 2;
  }
  const signal = interruption();
  let missed = 0;
  let voided = 0;
  for (const scenario of chosen) {
    const report = await measure(scenario, given, signal).catch((error: unknown): Void => {
      const why = error instanceof Error ? error.message : String(error);
      say(`${scenario.name}: ${why}`);
      return { scenario: scenario.name, seed: given.seed, void: why.split("\n", 1)[0] ?? "" };
    });
    if (signal.aborted) return 130;
    process.stdout.write(`${given.json ? asJson(report) : asMarkdown(report)}\n`);
    if ("void" in report) voided += 1;
    else if (report.figures.some((figure) => judge(figure).verdict === "not reached")) missed += 1;
  }
  return voided > 0 || (missed > 0 && !given.quick) ? 1 : 0;
}

/** One scenario on a stand of its own. Throws where the run is void. */
async function measure(scenario: Scenario, given: Arguments, signal: AbortSignal): Promise<Report> {
  const { rounds, seed, quick, only } = given;
  const endings = createEndings(say);
  const startedAt = new Date();
  const began = performance.now();
  let under: Promise<unknown> = Promise.resolve();
  try {
    const stand = await openStand(endings, { ...scenario, profile: given.profile });
    const machine = await describeMachine({ postgres: stand.postgres.version, redis: stand.redis.version });
    say(`${scenario.name}: seed ${seed}, ${rounds} rounds${quick ? ", short form" : ""}`);
    const measuring = scenario.measure({
      stand,
      rounds,
      seed,
      quick,
      only,
      signal,
      progress: say,
      until: began + lastRoundMs,
      latest: began + latestMs,
    });
    under = measuring.catch(() => undefined); // told by the race, where it is not the abort that ends it
    const outcome = await Promise.race([
      measuring,
      new Promise<never>((_, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      }),
      // Before the first round; then rounds end by themselves.
      sleep(latestMs + 1_000, undefined, { ref: false }).then(() => {
        throw new Error("void: it was not ready to be measured within ten minutes");
      }),
    ]);
    const tookSeconds = (performance.now() - began) / 1000;
    const had = Math.max(0, ...outcome.figures.map((figure) => figure.rounds.length));
    const fewer = had < rounds ? [`${had} of ${rounds} rounds: there was no time for more`] : [];
    return {
      ...{ scenario: scenario.name, machine, seed, quick, tookSeconds, ...outcome },
      ...{ rounds: had, notes: [...outcome.notes, ...fewer] },
      startedAt: startedAt.toISOString(),
    };
  } finally {
    await endings.run();
    if (given.profile !== undefined && !signal.aborted) say(await profilesOf(given.profile));
    // What was being started when the end came ends too.
    await Promise.race([under, sleep(startedLateMs, undefined, { ref: false })]);
    await endings.run();
  }
}

function help(): string {
  const line = (name: string, what: string): string => `  ${name.padEnd(14)} ${what}`;
  return [
    "npm run bench -- <scenario> [flags]: measures, in interleaved rounds, beside others.",
    "",
    "With a limit for each figure; about how many minutes it takes on a quiet machine with two cores:",
    ...scenarios.map(({ name, what, minutes }) => line(name, `${String(minutes).padStart(2)} min  ${what}`)),
    line("all", `${scenarios.reduce((sum, { minutes }) => sum + minutes, 0)} min  all of these, one after the other`),
    "",
    "Each ends within 10 minutes, on a busy machine with fewer rounds, and says so.",
    "",
    "Surveys:",
    ...Object.entries(surveys).map(([name, { what }]) => line(name, what)),
    "",
    "  --quick        fewer rounds and less work: for trying; its verdicts do not count",
    "  --rounds N     interleaved rounds. Default: 7, short form 2",
    "  --seed N       decides the order in each round. Default: another each time, and printed",
    "  --only PEER    of dispatch: this peer only, for trying; may be repeated",
    "  --profile DIR  CPU profiles of Bowline's servers and of peers, for Chrome's developer tools, and whose code",
    "                 took how much of each on stderr; slows them",
    "  --json         one document per scenario, with every round, instead of a table",
    "  --against DIR  of publishes: another checkout in turns with this one",
    "",
    "Examples:",
    "  npm run -s bench -- dispatch --quick",
    "  npm run -s bench -- dispatch --rounds 11 --seed 1 --json > dispatch.json",
    "  npm run -s bench -- all > results.md",
    "",
    "The table or the JSON goes to stdout, progress to stderr. Exit codes: 0 all limits were reached, or short form;",
    "1 one was not, or a run was void (it says why); 2 wrong usage; 130 ended by Ctrl-C. Nothing is left behind.",
  ].join("\n");
}
