/**
 * What follows a phase of a rollout in which every agent that can be reached is
 * done. Pure.
 *
 * P1: nothing serves that was not promoted, by somebody or by the policy.
 * P2: the last phase of every rollout is UPDATING.
 */
import type { Policy } from "./policy.ts";
import type { SidePhase } from "./sides.ts";

export type Phase = SidePhase | "UPDATING";

export interface PhaseState {
  phase: Phase;
  promoted: boolean;
  /** With SWITCHING, once it was done: until when what was is kept. */
  keepUntil: Date | undefined;
}

export type Next =
  | { kind: "succeeded" }
  | { kind: "phase"; phase: Phase }
  | { kind: "awaits-promotion" }
  | { kind: "keeps"; until: Date };

export function firstPhase({ strategy }: Policy, doubled: readonly string[]): Phase {
  if (doubled.length === 0 || strategy === "ROLLING") return "UPDATING";
  return strategy === "CANARY" ? "CANARIES" : "PREPARING";
}

export function nextPhase({ phase, promoted, keepUntil }: PhaseState, policy: Policy, now: Date): Next {
  switch (phase) {
    case "UPDATING":
      return { kind: "succeeded" }; // P2
    case "PREPARING":
    case "CANARIES":
      if (!promoted && !policy.autoPromote) return { kind: "awaits-promotion" }; // P1
      return { kind: "phase", phase: phase === "CANARIES" ? "UPDATING" : "SWITCHING" };
    case "SWITCHING": {
      const until = keepUntil ?? new Date(now.getTime() + policy.keepOldMs);
      return until <= now ? { kind: "phase", phase: "UPDATING" } : { kind: "keeps", until };
    }
    default:
      return phase satisfies never;
  }
}
