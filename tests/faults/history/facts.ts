/** The entries of a history by kind and subject, as the checks read them. */
import { commandStates, type CommandState } from "@bowline/db";
import type {
  Answered,
  Effect,
  Ended,
  Entry,
  Forgiven,
  Rewritten,
  Spec,
  Stale,
  Step,
  Waited,
  Watched,
  InvariantName,
} from "./events.ts";

export interface Violation {
  invariant: InvariantName;
  /** The command or deployment; empty where it is about neither. */
  subject: string;
  message: string;
}

type At<Kind> = Kind & { at: number };

export interface Facts {
  answered: readonly At<Answered>[];
  /** In the order in which the database did them. */
  steps: readonly At<Step>[];
  /** As commands stood at the end, by id. */
  commands: ReadonlyMap<string, Ended>;
  specs: ReadonlyMap<string, Spec>;
  rewritten: readonly Rewritten[];
  watched: readonly At<Watched>[];
  /** In the order in which they happened, host by host. */
  effects: readonly At<Effect>[];
  stale: readonly Stale[];
  waited: readonly Waited[];
  forgiven: readonly Forgiven[];
  /** Agents whose hosts have a ledger: of the others nothing is known but their word. */
  ledgers: ReadonlySet<string>;
}

export const generationKey = (of: { deployment: string; generation: number }): string =>
  `${of.deployment} generation ${of.generation}`;

export const isTerminal = (state: CommandState): boolean => commandStates[state].waits === "nothing";

/** Whether an agent may have it in its hands. */
export const isInFlight = (state: CommandState): boolean => commandStates[state].waits === "agent";

export function factsOf(entries: readonly Entry[]): Facts {
  const of = <Kind extends Entry["kind"]>(kind: Kind) =>
    entries.filter((entry): entry is Extract<Entry, { kind: Kind }> => entry.kind === kind);
  const effects = of("effect");
  return {
    answered: of("answered"),
    steps: of("step").toSorted((a, b) => a.number - b.number),
    commands: new Map(of("command").map((one) => [one.command, one])),
    specs: new Map(of("spec").map((one) => [generationKey(one), one])),
    rewritten: of("rewritten"),
    watched: of("watched"),
    effects,
    stale: of("stale"),
    waited: of("waited"),
    forgiven: of("forgiven"),
    ledgers: new Set(effects.map(({ agent }) => agent)),
  };
}

export function groupBy<T>(all: readonly T[], keyOf: (one: T) => string): Map<string, T[]> {
  return Map.groupBy(all, keyOf);
}
