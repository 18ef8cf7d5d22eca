/** What a scenario is, and how one is carried out and judged. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { check, evidence } from "./history/checker.ts";
import type { InvariantName } from "./history/events.ts";
import type { Violation } from "./history/facts.ts";
import { createHistory } from "./history/history.ts";
import { createWorld, type Need, scaleFactor, type Shared, type World } from "./world/world.ts";

export interface Scenario {
  /** As docs/reliability.md cites it. */
  number: number;
  /** What is broken, as a claim about what holds nevertheless. */
  title: string;
  /** Invariants that it is made to break; its history must have what they speak of. */
  tries: readonly InvariantName[];
  /** What it shares with others beside the shared replica. */
  needs?: readonly Need[];
  run(world: World): Promise<void>;
}

export interface Report {
  number: number;
  title: string;
  seed: number;
  /** Of times above a minute. */
  timesDividedBy: number;
  violations: readonly Violation[];
  /** Why it could not be carried out to its end; empty: it was. */
  failure: string;
  tookMs: number;
  entries: number;
  /** The history; "" where nothing was violated: then it is not kept. */
  file: string;
}

export async function runScenario(
  scenario: Scenario,
  options: { seed: number; shared: Shared; realTime: boolean; folder: string },
): Promise<Report> {
  const { number, title, tries } = scenario;
  const { seed, shared, realTime, folder } = options;
  const label = `f${String(number).padStart(2, "0")}`;
  // Names stay apart when a scenario is repeated on one shared server.
  const name = `${label}-${seed.toString(36)}-${Date.now().toString(36).slice(-5)}`;
  const history = createHistory(join(folder, `${label}-seed-${seed}-${process.pid}.jsonl`));
  const from = performance.now();
  const world = createWorld({ name, seed, history, realTime, shared });
  const failures: string[] = [];
  const failed = (error: unknown) =>
    void failures.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
  await scenario.run(world).catch(failed);
  await world.close().catch(failed);
  const violations = check(history.entries());
  const missing = failures.length === 0 ? tries.filter((one) => !evidence(history.entries()).has(one)) : [];
  if (missing.length > 0) failures.push(`the history has nothing that could violate ${missing.join(", ")}`);
  const kept = failures.length > 0 || violations.length > 0;
  if (!kept) rmSync(history.file, { force: true });
  return {
    ...{ number, title, seed, timesDividedBy: realTime ? 1 : scaleFactor },
    ...{ violations, failure: failures.join("\n") },
    tookMs: Math.round(performance.now() - from),
    entries: history.entries().length,
    file: kept ? history.file : "",
  };
}
