/**
 * What is shown while it runs: on a terminal a block that is drawn anew each
 * second, elsewhere a line now and then. All of it goes to stderr; stdout has
 * the report.
 */
import type { Writable } from "node:stream";
import type { Fleet } from "@bowline/testing/fleet";
import type { Load } from "./load.ts";

export interface Seen {
  step: string;
  fleet: Fleet;
  load: Load | undefined;
  agents: number;
  /** Newest figures of the server, where it is on this machine. */
  server: { memoryMb: number; cpu: number } | undefined;
}

export interface View {
  show(seen: Seen): void;
  /** A line of its own, that stays. */
  say(line: string): void;
  /** What was drawn stays, and the next line is below it. */
  end(): void;
}

/** Without a terminal, lines go into a log. */
const lineEveryMs = 5_000;
const shownErrors = 6;

export function createView(out: Writable, moving: boolean): View {
  let drawn = 0;
  let linedAt = Number.NEGATIVE_INFINITY;
  let before: { at: number; recorded: number } | undefined;

  const erase = (): void => {
    if (drawn > 0) out.write(`\u001b[${drawn}A\u001b[J`);
    drawn = 0;
  };
  return {
    show(seen) {
      const now = performance.now();
      if (!moving && now - linedAt < lineEveryMs) return;
      linedAt = now;
      const recorded = seen.fleet.ledger.totals().recorded;
      const perSecond = before === undefined ? 0 : ((recorded - before.recorded) * 1000) / Math.max(1, now - before.at);
      before = { at: now, recorded };
      const lines = linesOf(seen, perSecond);
      if (!moving) return void out.write(`${lines.map((line) => line.trim()).join("; ")}\n`);
      erase();
      out.write(`${lines.join("\n")}\n`);
      drawn = lines.length;
    },
    say(line) {
      erase();
      out.write(`${line}\n`);
    },
    end: () => void (drawn = 0),
  };
}

export function linesOf({ step, fleet, load, agents, server }: Seen, perSecond: number): string[] {
  const { phases } = fleet;
  const totals = fleet.ledger.totals();
  const connected = phases.greeting + phases.syncing + phases.serving;
  const { p50Ms, p99Ms } = load?.times.summary() ?? {};
  const errors = [...fleet.troubles, ...(load?.errors ?? [])].toSorted(([, a], [, b]) => b - a).slice(0, shownErrors);
  return [
    `  ${step}`,
    `  agents    ${fleet.enrolments()} of ${agents} enrolled, ${connected} connected, ${phases.serving} serving, ${phases.waiting} waiting`,
    `  commands  ${totals.unanswered} in flight, ${Math.round(perSecond)}/s, ${totals.recorded} recorded, ${totals.failed} failed`,
    ...(load === undefined
      ? []
      : [
          `  publishes ${load.counts.live} LIVE of ${load.counts.made}, ${load.open()} open, p50 ${figure(p50Ms)}, p99 ${figure(p99Ms)}`,
        ]),
    ...(server === undefined ? [] : [`  server    ${server.memoryMb} MiB, ${server.cpu.toFixed(2)} cores`]),
    ...(errors.length === 0 ? [] : [`  errors    ${errors.map(([reason, count]) => `${reason} ${count}`).join(", ")}`]),
  ];
}

function figure(ms: number | undefined): string {
  return ms === undefined ? "–" : `${Math.round(ms)} ms`;
}
