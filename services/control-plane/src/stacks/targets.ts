/** A rollout's targets as a step sees them, and what a step does to them. */
import { sql } from "kysely";
import { converge, type ConvergeWish } from "../commands/index.ts";
import { by, type Caller } from "../platform/context.ts";
import type { Work } from "../platform/transactions.ts";
import { absentSpec, digestOf, type Spec } from "./compile.ts";
import type { StackPorts } from "./ports.ts";
import { limitsOf, type RolloutRow, type StackRow, type TargetRow } from "./rows.ts";
import type { StepTarget } from "./steps.ts";

/** What a target says while a gate could not tell whether it works. */
export const gateInconclusive = "GATE_INCONCLUSIVE";

export interface View {
  target: TargetRow;
  /** Undefined: nothing is to be there. */
  spec: Spec | undefined;
  step: StepTarget;
}

export function viewOf(
  target: TargetRow,
  about: {
    wish: Spec | undefined;
    /** Since when its agent can be counted on; undefined: it cannot. */
    online: Date | undefined;
    stack: StackRow;
    rollout: RolloutRow;
    more: boolean;
  },
): View {
  const { wish, online, stack, rollout, more } = about;
  const leaves = Object.keys(target.wanted).length === 0;
  const failedBefore = target.state === "TARGET_FAILED" && target.rollout_id !== rollout.id;
  // What is still being removed there cannot come back: what is wanted there is placed anew when that is done.
  const owes = !leaves && target.state === "REMOVING";
  const idle = owes || (!leaves && wish === undefined); // its turn is in a later phase
  const current = leaves
    ? more || target.state === "REMOVING"
    : idle || (digestOf(wish ?? {}) === target.spec_digest && !failedBefore); // W1
  const unchanged = current && (target.rollout_id !== rollout.id || target.begun_phase !== rollout.phase);
  return {
    target,
    spec: leaves ? undefined : wish,
    step: {
      agentId: target.agent_id,
      current,
      leaves,
      state: idle ? "DONE" : (target.state as StepTarget["state"]),
      online: online !== undefined,
      healthySince: target.healthy_since ?? undefined,
      begunAt: online !== undefined && online > target.begun_at ? online : target.begun_at,
      // What is stopped is never healthy, and has nothing to prove.
      untouched: idle || unchanged || (current && stack.desired === "STOPPED"),
      inconclusive: target.rollout_id === rollout.id && target.reason === gateInconclusive,
    },
  };
}

/** Workloads that are healthy only once their check says so. */
function checkedOf(spec: Spec | undefined): string[] {
  const workloads = spec?.workloads ?? [];
  return workloads.filter(({ healthCheck }) => healthCheck?.disabled === false).map(({ name }) => name);
}

/** Commands for the agents whose turn it is, and that they have them. */
export async function enqueue(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  stack: StackRow,
  rollout: RolloutRow,
  views: readonly View[],
): Promise<void> {
  const limits = limitsOf(stack);
  const wishes = views.map(({ target, spec }): ConvergeWish => ({
    deploymentId: target.deployment_id,
    agentId: target.agent_id,
    clusterId: stack.cluster_id,
    organisationId: stack.organisation_id,
    kind: "stack",
    ownerId: stack.id,
    limits,
    ...by(caller),
    createdBy: rollout.created_by, // later steps are the server's, and still of who began it
    revision: rollout.to_revision,
    rolloutId: rollout.id,
    endsAhead: rollout.cause === "revert",
    build: () => spec ?? absentSpec(stack.name, false, limits.runTimeoutMs),
  }));
  const enqueued = await converge(ports.engine(), work, wishes);
  for (const [index, { target, spec }] of views.entries()) {
    const command = enqueued[index];
    if (command === undefined) continue;
    await work.tx
      .updateTable("stack_targets")
      .set({
        generation: command.generation,
        command_id: command.commandId,
        revision: rollout.to_revision,
        rollout_id: rollout.id,
        begun_phase: rollout.phase,
        begun_at: sql`now()`,
        spec_digest: spec === undefined ? "" : digestOf(spec),
        state: spec === undefined ? "REMOVING" : "PENDING",
        reason: "",
        message: "",
        healthy_since: null,
        healthy_instances: 0,
        checked: JSON.stringify(checkedOf(spec)),
        updated_at: sql`now()`,
      })
      .where("stack_id", "=", stack.id)
      .where("agent_id", "=", target.agent_id)
      .execute();
  }
}
