/**
 * A history against what Bowline promises. Pure: entries in, violations out.
 *
 *   events.ts   what entries say     commands.ts  A, C, D, E, G: of the engine
 *   effects.ts  B, H, I: of what was done at the hosts
 *
 * A  an accepted command is never lost       F  recovery within its bound
 * B  one effect per command                  G  a cancel converges
 * C  at most one in flight per deployment,   H  what is called generation G is the
 *    in order                                   content of generation G
 * D  terminal states stay                    I  nothing is removed that no removal
 * E  a stale fence changes nothing              named
 */
import { acceptedIsNotLost, cancelsConverge, oneInFlight, staleChangesNothing, terminalStays } from "./commands.ts";
import { contentOfGeneration, oneEffect, onlyNamedRemovals } from "./effects.ts";
import type { Entry, InvariantName } from "./events.ts";
import { type Facts, factsOf, isTerminal, type Violation } from "./facts.ts";

export const invariants = {
  A: "an accepted command is never lost",
  B: "one effect per command",
  C: "at most one in flight per deployment, in order",
  D: "terminal states stay",
  E: "a stale fence changes nothing",
  F: "recovery within its bound",
  G: "a cancel converges",
  H: "what is called generation G is the content of generation G",
  I: "nothing is removed that no removal named",
} as const satisfies Record<InvariantName, string>;

const checks: readonly ((facts: Facts) => Violation[])[] = [
  acceptedIsNotLost,
  oneEffect,
  oneInFlight,
  terminalStays,
  staleChangesNothing,
  recovery,
  cancelsConverge,
  contentOfGeneration,
  onlyNamedRemovals,
];

export function check(entries: readonly Entry[]): Violation[] {
  const facts = factsOf(entries);
  const forgiven = ({ invariant, subject }: Violation): boolean =>
    facts.forgiven.some((one) => one.invariant === invariant && one.subject === subject);
  return checks.flatMap((one) => one(facts)).filter((violation) => !forgiven(violation));
}

/** F: what was to be so again was, in its time. */
function recovery({ waited }: Facts): Violation[] {
  return waited.flatMap(({ what, boundMs, tookMs }) => {
    if (tookMs !== null && tookMs <= boundMs) return [];
    const took = tookMs === null ? "it never was" : `it took ${Math.round(tookMs)} ms`;
    return [{ invariant: "F" as const, subject: "", message: `${what}: within ${boundMs} ms, but ${took}` }];
  });
}

/** Invariants that this history could have violated: a scenario that tries none proves none. */
export function evidence(entries: readonly Entry[]): ReadonlySet<InvariantName> {
  const { answered, effects, steps, watched, stale, waited, specs } = factsOf(entries);
  const accepted = answered.some(({ outcome, commands }) => outcome === "ok" && commands.length > 0);
  const made = effects.some(({ what }) => what === "applied" || what === "removed");
  const resumed = steps.some(({ sessionEpoch }) => (sessionEpoch ?? 0) > 1);
  const has = {
    A: accepted,
    B: made,
    C: steps.length > 0,
    D: steps.some(({ to }) => isTerminal(to)) && watched.length > 0,
    E: stale.length > 0 || resumed,
    F: waited.length > 0,
    G: answered.some(({ what, outcome }) => what === "cancel" && outcome === "ok"),
    H: made && specs.size > 0,
    I: made,
  } as const satisfies Record<InvariantName, boolean>;
  return new Set((Object.keys(has) as InvariantName[]).filter((name) => has[name]));
}
