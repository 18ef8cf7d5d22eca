/** An outcome for people (Markdown) and for programs (JSON). */
import { judge, type Limit, type Outcome } from "./figures.ts";
import type { Machine } from "./machine.ts";
import { short } from "./rounds.ts";
import { spreadOf } from "./statistics.ts";

export interface Report extends Outcome {
  machine: Machine;
  rounds: number;
  seed: number;
  /** The short form: fewer rounds and less work. Its verdicts are for trying. */
  quick: boolean;
  startedAt: string;
  tookSeconds: number;
}

/** In the place of a report: what was measured counts for nothing. */
export interface Void {
  scenario: string;
  seed: number;
  void: string;
}

export function asJson(report: Report | Void): string {
  if ("void" in report) return JSON.stringify(report);
  const sides = report.sides.map(({ side, values }) => ({
    side,
    values: Object.fromEntries(Object.entries(values).map(([name, all]) => [name, { ...spreadOf(all), rounds: all }])),
  }));
  return JSON.stringify({ ...report, figures: report.figures.map(judge), sides });
}

export function asMarkdown(report: Report | Void): string {
  if ("void" in report) return `### ${report.scenario}\n\nVoid (seed ${report.seed}): ${report.void}\n`;
  const { machine: m } = report;
  const about =
    `${m.cores} × ${m.processor}, ${m.memoryGib} GiB, ${m.kernel}, Node ${m.node}, PostgreSQL ${m.postgres}, ` +
    `Redis ${m.redis}; commit ${m.commit}; load before ${m.loadBefore}; seed ${report.seed}; ` +
    `${report.rounds} interleaved rounds in ${Math.round(report.tookSeconds)} s`;
  return [
    `### ${report.scenario}${report.quick ? " (short form: for trying, not for judging)" : ""}`,
    "",
    about,
    "",
    ...table(
      ["figure", "median", "lowest–highest", "limit", "verdict"],
      report.figures.map(judge).map((figure) => {
        const range = `${short(figure.min)}–${short(figure.max)}`;
        return [figure.what, short(figure.median), range, limitText(figure.limit), figure.verdict];
      }),
    ),
    "",
    ...sideTable(report),
    ...report.notes.map((note) => `- ${note}`),
    "",
  ].join("\n");
}

/** Medians of what was measured: the absolute numbers behind the ratios. */
function sideTable({ sides }: Report): string[] {
  const names = [...new Set(sides.flatMap(({ values }) => Object.keys(values)))];
  if (names.length === 0) return [];
  const rows = sides.map(({ side, values }) => [
    side,
    ...names.map((name) => (values[name] === undefined ? "" : short(spreadOf(values[name]).median))),
  ]);
  return [...table(["medians", ...names], rows), ""];
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`);
}

function limitText(limit: Limit): string {
  return "atLeast" in limit ? `≥ ${limit.atLeast}` : `≤ ${limit.atMost}`;
}
