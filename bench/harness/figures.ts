/**
 * What a scenario says: figures with a limit each, and a verdict.
 *
 * F1: a figure is a ratio of two things measured in the same round, one right
 *     after the other; the median of all rounds is what counts.
 * F2: the limit is written beside the figure and not adjusted to the result.
 */
import { quantile, type Spread, spreadOf } from "./statistics.ts";

export type Limit = { atLeast: number } | { atMost: number };

export interface Figure {
  /** Stable, e.g. `dispatch/graphile-worker`. */
  id: string;
  /** What is divided by what. */
  what: string;
  limit: Limit;
  /** One ratio per round. */
  rounds: number[];
}

export interface Judged extends Figure, Spread {
  verdict: "reached" | "not reached";
}

/** What was measured of one side, beside the ratios. */
export interface Side {
  side: string;
  /** By name, with its unit in it: a value per round. */
  values: Record<string, number[]>;
}

export interface Outcome {
  scenario: string;
  figures: Figure[];
  sides: Side[];
  /** What a reader has to know of this run. */
  notes: string[];
}

export function judge(figure: Figure): Judged {
  const spread = spreadOf(figure.rounds);
  const { limit } = figure;
  const reached = "atLeast" in limit ? spread.median >= limit.atLeast : spread.median <= limit.atMost;
  return { ...figure, ...spread, verdict: reached ? "reached" : "not reached" };
}

/** F1. `above` and `below` have a value per round, of the same rounds. */
export function ratios(above: readonly number[], below: readonly number[]): number[] {
  if (above.length !== below.length) throw new Error("a ratio needs the same rounds on both sides");
  return above.map((value, round) => value / (below[round] ?? Number.NaN));
}

/** Of one round's single measurements. */
export const percentile = (values: readonly number[], percent: number): number => quantile(values, percent / 100);
