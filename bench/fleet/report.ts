/** The report: as JSON for programs, as lines for people. */
import type { Fleet, LedgerTotals, MisbehaviourReport, TimesSummary } from "@bowline/testing/fleet";
import type { Check } from "./check.ts";
import type { Load, LoadCounts } from "./load.ts";
import type { Options } from "./options.ts";

/** What a server used, while all served; per-agent figures are against its use before the first enrolled. */
export interface ServerReport {
  memoryMb: number;
  memoryMbBefore: number;
  databaseMemoryMb: number;
  /** Cores busy, on average. */
  cpu: number;
  databaseCpu: number;
}

export interface Report {
  version: 1;
  machine: string;
  startedAt: string;
  seed: number;
  settings: Record<string, unknown>;
  /** Seconds from the first enrolment until all served, and of the load. */
  enrolSeconds: number;
  loadSeconds: number;
  agents: { enrolled: number; serving: number };
  enrolments: TimesSummary | undefined;
  heartbeats: TimesSummary | undefined;
  publishes: (LoadCounts & { unfinished: number; toLive: TimesSummary | undefined }) | undefined;
  commands: LedgerTotals & { pushes: number; perSecond: number };
  misbehaviours: MisbehaviourReport[];
  /** Reasons of refused dials, lost sessions, failed fetches and calls. */
  errors: Record<string, number>;
  server: ServerReport | undefined;
  /** This process. */
  simulator: { memoryMb: number; memoryMbBefore: number; cpu: number };
  check: Check;
  /** Why the run is not as it should be; empty: it is. */
  failures: string[];
}

export interface Facts {
  options: Options;
  machine: string;
  startedAt: Date;
  enrolMs: number;
  loadMs: number;
  fleet: Fleet;
  /** Agents that served when the load ended. */
  serving: number;
  load: Load | undefined;
  check: Check;
  server: ServerReport | undefined;
  simulator: Report["simulator"];
  interrupted: boolean;
}

export function reportOf(facts: Facts): Report {
  const { options, fleet, load, check } = facts;
  const totals = fleet.ledger.totals();
  const unfinished = load?.open() ?? 0;
  const loadSeconds = rounded(facts.loadMs / 1000);
  const report: Report = {
    version: 1,
    machine: facts.machine,
    startedAt: facts.startedAt.toISOString(),
    seed: options.seed,
    settings: settingsOf(options),
    enrolSeconds: rounded(facts.enrolMs / 1000),
    loadSeconds,
    agents: { enrolled: fleet.enrolments(), serving: facts.serving },
    enrolments: fleet.enrolmentTimes.summary(),
    heartbeats: fleet.beats.summary(),
    publishes: load === undefined ? undefined : { ...load.counts, unfinished, toLive: load.times.summary() },
    commands: {
      ...totals,
      pushes: fleet.pushes(),
      perSecond: loadSeconds > 0 ? rounded(totals.recorded / loadSeconds) : 0,
    },
    misbehaviours: fleet.misbehaviours(),
    errors: Object.fromEntries([...fleet.troubles, ...(load?.errors ?? [])]),
    server: facts.server,
    simulator: facts.simulator,
    check,
    failures: [],
  };
  report.failures.push(...failuresOf(report, facts));
  return report;
}

/** Agents in conflict get nothing, and what is published to their group does not become LIVE. */
function failuresOf(report: Report, { options, interrupted }: Facts): string[] {
  const failures: string[] = [];
  if (report.check.violations.length > 0) {
    failures.push(`${report.check.violations.length} violations, the first: ${report.check.violations[0]}`);
  }
  if (interrupted) return failures;
  const stuck = (options.misbehave.duplicate ?? 0) > 0;
  if (report.agents.enrolled < options.agents)
    failures.push(`${options.agents - report.agents.enrolled} agents have not enrolled`);
  if ((report.publishes?.unfinished ?? 0) > 0 && !stuck)
    failures.push(`${report.publishes?.unfinished} publishes did not become LIVE in time`);
  if ((report.publishes?.refused ?? 0) > 0)
    failures.push(`${report.publishes?.refused} publishes were refused; the errors say why`);
  if ((report.publishes?.failed ?? 0) > 0 && options.failRate === 0)
    failures.push(`${report.publishes?.failed} publishes failed, and no agent was told to fail`);
  if (report.commands.unanswered > 0 && !stuck)
    failures.push(`${report.commands.unanswered} results were not acknowledged in time`);
  return failures;
}

/** Without secrets: a report is shown to others. */
function settingsOf(options: Options): Record<string, unknown> {
  const { registrationToken, operatorToken, help, decorated, output, caFile, ...told } = options;
  void [registrationToken, operatorToken, help, decorated, output, caFile];
  return { ...told, server: options.server ?? "its own" };
}

const rounded = (value: number): number => Math.round(value * 10) / 10;

export function textOf(report: Report): string {
  const { agents, commands, publishes, server, simulator, check } = report;
  const row = (name: string, text: string): string => `  ${name.padEnd(18)}${text}`;
  const times = (of: TimesSummary | undefined): string =>
    of === undefined ? "–" : `p50 ${ms(of.p50Ms)}, p99 ${ms(of.p99Ms)}, longest ${ms(of.maxMs)} (${of.count})`;
  const perAgent = (mb: number): string => `${Math.round((mb * 1024) / Math.max(1, agents.enrolled))} KiB per agent`;
  const lines = [
    "",
    `${report.machine}   seed ${report.seed}`,
    "",
    row(
      "agents",
      `${agents.serving} of ${agents.enrolled} serve; all enrolled and serving after ${report.enrolSeconds} s`,
    ),
    row("enrolments", times(report.enrolments)),
    row("heartbeats", `answered in ${times(report.heartbeats)}`),
  ];
  if (publishes !== undefined) {
    const { made, live, failed, refused, leftOut, unfinished } = publishes;
    const more = [
      failed > 0 ? `, ${failed} failed` : "",
      refused > 0 ? `, ${refused} refused` : "",
      unfinished > 0 ? `, ${unfinished} unfinished` : "",
      leftOut > 0 ? `, ${leftOut} left out because every group had one` : "",
    ].join("");
    lines.push(row("publishes", `${made} made, ${live} LIVE${more}, in ${report.loadSeconds} s`));
    lines.push(row("publish to LIVE", times(publishes.toLive)));
  }
  lines.push(
    row(
      "commands",
      `${commands.commands}, ${commands.attempts} attempts: ${commands.succeeded} succeeded, ${commands.failed} failed, ${commands.cancelled} cancelled; ${commands.perSecond} results/s`,
    ),
  );
  for (const { kind, agents: count, back, backWithinMs, troubles } of report.misbehaviours) {
    const when = backWithinMs === undefined ? "" : ` within ${ms(backWithinMs)}`;
    const told = Object.entries(troubles).map(([reason, times]) => `${reason} ${times}`);
    lines.push(row(kind, `${back} of ${count} served again${when}${told.length === 0 ? "" : `; ${told.join(", ")}`}`));
  }
  if (server !== undefined) {
    const grown = Math.max(0, server.memoryMb - server.memoryMbBefore);
    lines.push(
      row(
        "server",
        `${server.memoryMb} MiB (${server.memoryMbBefore} before, ${perAgent(grown)}), ${server.cpu} cores; its PostgreSQL ${server.databaseMemoryMb} MiB, ${server.databaseCpu} cores`,
      ),
    );
  }
  lines.push(
    row(
      "this simulator",
      `${simulator.memoryMb} MiB (${perAgent(simulator.memoryMb - simulator.memoryMbBefore)}), ${simulator.cpu} cores`,
    ),
  );
  const errors = Object.entries(report.errors).map(([reason, count]) => `${reason} ${count}`);
  if (errors.length > 0) lines.push(row("errors", errors.join(", ")));
  lines.push(
    row(
      "one result per id",
      check.violations.length > 0
        ? `NO: ${check.violations.slice(0, 3).join("; ")}`
        : check.compared
          ? `yes, of ${check.commands} commands, compared with the server`
          : `as far as the agents know; the server was not asked`,
    ),
    "",
    report.failures.length === 0 ? "All as it should be." : `Not as it should be: ${report.failures.join("; ")}.`,
    "",
  );
  return lines.join("\n");
}

function ms(value: number): string {
  if (value < 10) return `${value} ms`;
  return value < 10_000 ? `${Math.round(value)} ms` : `${Math.round(value / 100) / 10} s`;
}
