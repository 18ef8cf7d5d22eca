/** What a scenario gets, and what it gives. */
import type { Stand } from "../stand/stand.ts";
import type { Outcome } from "./figures.ts";
import type { RoundsOptions } from "./rounds.ts";

export interface Run extends RoundsOptions {
  stand: Stand;
  /** The short form. */
  quick: boolean;
  /** Only these peers, by name; all where it is empty. For trying. */
  only: readonly string[];
}

export interface Scenario {
  name: string;
  /** One line for the help. */
  what: string;
  /** How long it takes on a quiet machine with two cores. */
  minutes: number;
  /** PostgreSQL keeps the time of each commit. */
  commitTimes?: boolean;
  measure(run: Run): Promise<Omit<Outcome, "scenario">>;
}
