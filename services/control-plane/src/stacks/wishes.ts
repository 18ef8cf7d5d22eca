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
  online: ReadonlyMap<string, Date>,
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
  const counts = phase === "CANARIES" ? canariesOf(policy, rollout, targets, online) : new Map();
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

/**
 * By agent, by service. Only agents that have the service now serve it beside something. Who is away, or came back since
 * it began, gets one only where the others have no room: so they serve at once, and stay where they are.
 */
function canariesOf(
  policy: Policy,
  rollout: RolloutRow,
  targets: readonly TargetRow[],
  online: ReadonlyMap<string, Date>,
): Map<string, Record<string, number>> {
  const given = new Map<string, Record<string, number>>();
  const had = targets.filter((target) => Object.keys(target.stable_wanted).length > 0);
  const has = (target: TargetRow): boolean => target.rollout_id === rollout.id && target.begun_phase === "CANARIES";
  const wasThere = ({ agent_id: id }: TargetRow): boolean => {
    const since = online.get(id);
    return since !== undefined && since <= rollout.created_at;
  };
  const last = new Set(had.filter((one) => !has(one) && !wasThere(one)).map((one) => one.agent_id));
  const begunAs = (one: TargetRow): number => (has(one) ? one.begun_at.getTime() : Number.MAX_SAFE_INTEGER);
  const inOrder = had.toSorted((a, b) => begunAs(a) - begunAs(b));
  for (const service of rollout.side_by_side) {
    const wanted = new Map(inOrder.map((target) => [target.agent_id, target.wanted]));
    const replicas = [...wanted.values()].reduce((sum, counts) => sum + (counts[service] ?? 0), 0);
    for (const [agentId, count] of canaries(canaryTotal(policy, replicas), wanted, service, last))
      given.set(agentId, { ...given.get(agentId), [service]: count });
  }
  return given;
}
