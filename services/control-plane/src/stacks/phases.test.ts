import { expect, test } from "@jest/globals";
import { create, toBinary } from "@bufbuild/protobuf";
import { RolloutPolicy_Strategy as Strategy, RolloutPolicySchema } from "@bowline/contract/stacks";
import { firstPhase, nextPhase, type Phase } from "./phases.ts";
import { canaryTotal, type Policy, policyOf } from "./policy.ts";

const policy = (strategy: Strategy, more: Partial<Policy> = {}): Policy => ({
  ...policyOf(toBinary(RolloutPolicySchema, create(RolloutPolicySchema, { strategy }))),
  ...more,
});

/** The phases that a rollout goes through, each done at once. */
function phases(given: Policy, promoted = false): string[] {
  const now = new Date(0);
  const seen: string[] = [];
  let phase: Phase = firstPhase(given, ["web"]);
  for (;;) {
    seen.push(phase);
    const next = nextPhase({ phase, promoted, keepUntil: undefined }, given, now);
    if (next.kind !== "phase") return [...seen, next.kind];
    phase = next.phase;
  }
}

test("each strategy ends in the phase that brings everybody all of it", () => {
  expect(phases(policy(Strategy.ROLLING))).toEqual(["UPDATING", "succeeded"]);
  expect(phases(policy(Strategy.BLUE_GREEN, { keepOldMs: 0 }))).toEqual([
    ...["PREPARING", "SWITCHING", "UPDATING", "succeeded"],
  ]);
  expect(phases(policy(Strategy.CANARY), true)).toEqual(["CANARIES", "UPDATING", "succeeded"]);
});

test("blue/green promotes itself and keeps the old for five minutes, canaries wait; the policy may say else", () => {
  expect(phases(policy(Strategy.BLUE_GREEN))).toEqual(["PREPARING", "SWITCHING", "keeps"]);
  expect(policy(Strategy.BLUE_GREEN).keepOldMs).toBe(300_000);
  expect(phases(policy(Strategy.CANARY))).toEqual(["CANARIES", "awaits-promotion"]);
  expect(phases(policy(Strategy.BLUE_GREEN, { autoPromote: false }))).toEqual(["PREPARING", "awaits-promotion"]);
  expect(phases(policy(Strategy.CANARY, { autoPromote: true }))).toEqual(["CANARIES", "UPDATING", "succeeded"]);
});

test("where nothing can run side by side, a rollout is a rolling one", () => {
  expect(firstPhase(policy(Strategy.BLUE_GREEN), [])).toBe("UPDATING");
});

test("canaries are at least one and at most all; percent are rounded up", () => {
  const percent = (canaryPercent: number) => canaryTotal(policy(Strategy.CANARY, { canaryPercent }), 10);
  expect([percent(1), percent(11), percent(100)]).toEqual([1, 2, 10]);
  expect(canaryTotal(policy(Strategy.CANARY, { canaryCount: 50 }), 3)).toBe(3);
});
