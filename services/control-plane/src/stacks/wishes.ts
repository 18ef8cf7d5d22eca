/**
 * What each agent is to have in the phase that a rollout is in.
 *
 * W1: it is computed from rows each time and compared by its digest; what is
 *     there already is left alone.
 * W2: the way back is asked nothing: what was stable has served already, and
 *     may not have what a gate of the newer revision asks for.
 */
import { compileTarget, type CompileOptions, type Spec } from "./compile.ts";
import { canaryTotal, gatesOf, type Policy, policyOf, shapeOf } from "./policy.ts";
import type { Phase } from "./phases.ts";
import { modelOf, type StackModel } from "./revisions.ts";
import { type HeldStack, limitsOf, type RolloutRow, type TargetRow } from "./rows.ts";
import { canaries, sideBySide } from "./sides.ts";
import type { Tx } from "../platform/transactions.ts";

/** What an agent that stays is to have; undefined: this phase has nothing for it. */
export type WishOf = (target: TargetRow) => Spec | undefined;

export async function wishesOf(
  tx: Tx,
  { stack, targets }: HeldStack,
  rollout: RolloutRow,
  model: StackModel,
): Promise<WishOf> {
  const policy = policyOf(rollout.policy);
  const common = {
    stack: stack.name,
    desired: stack.desired === "STOPPED" ? "STOPPED" : "RUNNING",
    runTimeoutMs: limitsOf(stack).runTimeoutMs,
    ...shapeOf(policy),
  } as const satisfies Partial<CompileOptions>;
  const next = (target: TargetRow): Spec =>
    compileTarget(model, target.wanted, {
      ...{ ...common, colours: rollout.colours },
      ...{ stamps: stack.restart_stamps, secretVersions: rollout.secrets },
    });
  const asked = (spec: Spec): Spec =>
    rollout.cause === "revert" ? spec : { ...spec, gates: gatesOf(policy, spec.workloads ?? [], rollout.colours) }; // W2
  const phase = rollout.phase as Phase;
  const doubled = rollout.side_by_side;
  // What ran side by side was asked before it took over.
  if (phase === "UPDATING") return doubled.length === 0 ? (target) => asked(next(target)) : next;

  const stable = await modelOf(tx, stack.id, stack.stable_revision);
  const base = (target: TargetRow): Spec =>
    compileTarget(stable, target.stable_wanted, {
      ...{ ...common, colours: stack.colours },
      ...{ stamps: stack.stable_stamps, secretVersions: stack.stable_secrets },
    });
  const counts = phase === "CANARIES" ? canariesOf(policy, doubled, targets) : new Map();
  return (target) => {
    const isNew = Object.keys(target.stable_wanted).length === 0;
    if (isNew && phase === "CANARIES") return undefined;
    const spec = isNew
      ? next(target)
      : sideBySide({
          ...{ phase, doubled, live: stack.colours, coming: rollout.colours },
          ...{ base: base(target), next: next(target), canaries: counts.get(target.agent_id) ?? {} },
        });
    return phase === "SWITCHING" ? spec : asked(spec);
  };
}

/** By agent, by service. Only agents that have the service now serve it beside something. */
function canariesOf(
  policy: Policy,
  doubled: readonly string[],
  targets: readonly TargetRow[],
): Map<string, Record<string, number>> {
  const given = new Map<string, Record<string, number>>();
  const had = targets.filter((target) => Object.keys(target.stable_wanted).length > 0);
  for (const service of doubled) {
    const wanted = new Map(had.map((target) => [target.agent_id, target.wanted]));
    const replicas = [...wanted.values()].reduce((sum, counts) => sum + (counts[service] ?? 0), 0);
    for (const [agentId, count] of canaries(canaryTotal(policy, replicas), wanted, service))
      given.set(agentId, { ...given.get(agentId), [service]: count });
  }
  return given;
}
