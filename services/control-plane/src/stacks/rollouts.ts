/**
 * Rollouts: how a stack comes from one revision to another, an agent after the
 * other. steps.ts decides; here its decisions become commands.
 *
 * U1: what a step enqueues and that it did are one transaction under the
 *     stack's name: no crash runs a step twice or loses one.
 * U2: what an agent is to have is recomputed from rows each time and compared
 *     by its digest; what is there already is left alone.
 * U3: a rollout that goes back never goes back itself.
 */
import { type RolloutPolicy, RolloutPolicySchema } from "@bowline/contract/stacks";
import { toBinary } from "@bufbuild/protobuf";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { converge, type ConvergeWish } from "../commands/index.ts";
import { newDeploymentId } from "../deployments/index.ts";
import { by, type Caller } from "../platform/context.ts";
import { transact, type Tx, type Work } from "../platform/transactions.ts";
import { absentSpec, compileTarget, digestOf, secretNames } from "./compile.ts";
import { type Placed, place, type PlaceableAgent } from "./placement.ts";
import type { StackPorts } from "./ports.ts";
import { modelOf, type StackModel } from "./revisions.ts";
import {
  type HeldStack,
  holdRows,
  itself,
  limitsOf,
  lockName,
  noteStacks,
  policyOf,
  type RolloutRow,
  type StackRow,
  type TargetRow,
} from "./rows.ts";
import { nextSteps, type StepTarget } from "./steps.ts";

export type Cause = "apply" | "rollback" | "restart" | "revert" | "place" | "start" | "stop";

/** Begins a rollout of `held.stack` as it is now; an older one that is under way is superseded. */
export async function beginRollout(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  held: HeldStack,
  { to, cause, policy }: { to: number; cause: Cause; policy: RolloutPolicy | Uint8Array },
): Promise<void> {
  const { tx } = work;
  const { stack } = held;
  const model = await modelOf(tx, stack.id, to);
  const { placement } = await placed(tx, stack, model, held.targets);
  const id = newId("rollout");
  await endOpen(work, stack.id, { state: "SUPERSEDED", followedBy: id });
  for (const [agentId, wanted] of placement) {
    await tx
      .insertInto("stack_targets")
      .values({
        stack_id: stack.id,
        agent_id: agentId,
        deployment_id: newDeploymentId(),
        wanted: JSON.stringify(wanted),
      })
      .onConflict((conflict) =>
        conflict.columns(["stack_id", "agent_id"]).doUpdateSet({ wanted: JSON.stringify(wanted) }),
      )
      .execute();
  }
  const leaving = held.targets.filter((target) => !placement.has(target.agent_id)).map((target) => target.agent_id);
  if (leaving.length > 0) {
    await sql`DELETE FROM stack_targets WHERE stack_id = ${stack.id} AND agent_id = ANY(${leaving}) AND generation = 0`.execute(
      tx,
    );
    await sql`UPDATE stack_targets SET wanted = '{}' WHERE stack_id = ${stack.id} AND agent_id = ANY(${leaving})`.execute(
      tx,
    );
  }
  const rollout = await tx
    .insertInto("stack_rollouts")
    .values({
      id,
      stack_id: stack.id,
      from_revision: stack.revision === to ? stack.stable_revision : stack.revision,
      to_revision: to,
      cause,
      state: "RUNNING",
      policy: Buffer.from(policy instanceof Uint8Array ? policy : toBinary(RolloutPolicySchema, policy)),
      secrets: JSON.stringify(await ports.secretVersions(tx, stack.organisation_id, secretNames(model))),
      total: placement.size,
      created_by: caller.principal.id,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
  await tx
    .updateTable("stacks")
    .set({ revision: to, rollout_id: id, state: "ROLLING_OUT", reason: "", message: "" })
    .where("id", "=", stack.id)
    .execute();
  await stepOn(ports, work, caller, await reread(tx, stack.id), rollout, model);
}

/** Ends the rollout that is under way, if there is one. */
export async function endOpen(
  work: Work,
  stackId: string,
  end: { state: "SUPERSEDED" | "ABORTED"; followedBy?: string; reason?: string },
): Promise<void> {
  await work.tx
    .updateTable("stack_rollouts")
    .set({ state: end.state, reason: end.reason ?? "", followed_by: end.followedBy ?? "", ended_at: sql`now()` })
    .where("stack_id", "=", stackId)
    .where("ended_at", "is", null)
    .execute();
}

/** Where a model's services are to be, from who is there now and where they were. */
export async function placed(
  tx: Tx,
  stack: Pick<StackRow, "cluster_id">,
  model: StackModel,
  targets: readonly TargetRow[],
): Promise<Placed> {
  const { rows: agents } = await sql<PlaceableAgent>`
    SELECT a.id, a.name, coalesce(a.reported_labels || a.labels, '{}') AS labels, a.cordoned,
      (SELECT count(*)::int FROM deployments AS d WHERE d.agent_id = a.id AND NOT d.is_absent) AS running
    FROM agents AS a WHERE a.cluster_id = ${stack.cluster_id} AND a.state = 'ENROLLED' ORDER BY a.id`.execute(tx);
  const before = new Map(targets.map((target) => [target.agent_id, target.wanted]));
  return place(
    model.services.map(({ name, mode, replicas, constraints, maxReplicasPerAgent }) => ({
      ...{ name, mode, replicas },
      mostPerAgent: maxReplicasPerAgent ?? Infinity,
      constraints: constraints.map(({ kind, label, operator, value }) => ({
        subject: kind === "label" ? `labels.${label ?? ""}` : kind,
        equal: operator === "==",
        value,
      })),
    })),
    agents,
    before,
  );
}

/** One step of a rollout that is due. Nothing where it has ended meanwhile. */
export async function advance(ports: StackPorts, rolloutId: string): Promise<void> {
  await transact(ports.engine().db, async (work) => {
    const found = await holdRollout(ports, work, rolloutId);
    if (found === undefined || found.rollout.ended_at !== null) return;
    const model = await modelOf(work.tx, found.held.stack.id, found.rollout.to_revision);
    await stepOn(ports, work, itself, found.held, found.rollout, model);
  });
}

/** A rollout with all that it holds (H1); undefined where there is none, or its cluster is gone. */
export async function holdRollout(
  ports: StackPorts,
  work: Work,
  rolloutId: string,
): Promise<{ rollout: RolloutRow; held: HeldStack } | undefined> {
  const { tx } = work;
  const at = await tx
    .selectFrom("stack_rollouts as r")
    .innerJoin("stacks as s", "s.id", "r.stack_id")
    .select(["s.id", "s.cluster_id", "s.organisation_id", "s.name"])
    .where("r.id", "=", rolloutId)
    .executeTakeFirst();
  if (at === undefined || (await ports.lockClusterForChange(tx, at.cluster_id)) === undefined) return undefined;
  await lockName(tx, at.organisation_id, at.name);
  const held = await holdRows(tx, at.id);
  const rollout = await tx
    .selectFrom("stack_rollouts")
    .selectAll()
    .where("id", "=", rolloutId)
    .forUpdate()
    .executeTakeFirst();
  return rollout === undefined ? undefined : { rollout, held };
}

async function reread(tx: Tx, stackId: string): Promise<HeldStack> {
  const targets = await tx
    .selectFrom("stack_targets")
    .selectAll()
    .where("stack_id", "=", stackId)
    .orderBy("agent_id")
    .execute();
  const stack = await tx.selectFrom("stacks").selectAll().where("id", "=", stackId).executeTakeFirstOrThrow();
  return { stack, targets };
}

async function stepOn(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  held: HeldStack,
  rollout: RolloutRow,
  model: StackModel,
): Promise<void> {
  const { tx } = work;
  const { stack } = held;
  const policy = policyOf(rollout.policy);
  const limits = limitsOf(stack);
  const { now, online } = await moment(
    tx,
    held.targets.map((target) => target.agent_id),
  );
  const specOf = (target: TargetRow) =>
    compileTarget(model, target.wanted, {
      stack: stack.name,
      desired: stack.desired === "STOPPED" ? "STOPPED" : "RUNNING",
      stamps: stack.restart_stamps,
      secretVersions: rollout.secrets,
      runTimeoutMs: limits.runTimeoutMs,
    });
  const leaves = (target: TargetRow): boolean => Object.keys(target.wanted).length === 0;
  const targets: StepTarget[] = held.targets.map((target) => {
    const failedBefore = target.state === "TARGET_FAILED" && target.rollout_id !== rollout.id;
    const current = leaves(target)
      ? target.state === "REMOVING"
      : digestOf(specOf(target)) === target.spec_digest && !failedBefore; // U2
    return {
      agentId: target.agent_id,
      current,
      leaves: leaves(target),
      state: target.state as StepTarget["state"],
      online: online.has(target.agent_id),
      healthySince: target.healthy_since ?? undefined,
      // What is stopped is never healthy, and has nothing to prove.
      untouched: current && (target.rollout_id !== rollout.id || stack.desired === "STOPPED"),
    };
  });
  const steps = nextSteps(
    { ...policy, paused: rollout.state === "PAUSED", progressAt: rollout.progress_at },
    targets,
    now,
  );
  const begun = held.targets.filter((target) => steps.begin.includes(target.agent_id));
  const wishes = begun.map((target): ConvergeWish => ({
    deploymentId: target.deployment_id,
    agentId: target.agent_id,
    clusterId: stack.cluster_id,
    organisationId: stack.organisation_id,
    kind: "stack",
    ownerId: stack.id,
    limits,
    ...by(caller),
    build: () => (leaves(target) ? absentSpec(stack.name, false, limits.runTimeoutMs) : specOf(target)),
  }));
  const enqueued = await converge(ports.engine(), work, wishes);
  for (const [index, target] of begun.entries()) {
    const command = enqueued[index];
    if (command === undefined) continue;
    await tx
      .updateTable("stack_targets")
      .set({
        generation: command.generation,
        command_id: command.commandId,
        revision: rollout.to_revision,
        rollout_id: rollout.id,
        spec_digest: leaves(target) ? "" : digestOf(specOf(target)),
        state: leaves(target) ? "REMOVING" : "PENDING",
        reason: "",
        message: "",
        healthy_since: null,
        updated_at: sql`now()`,
      })
      .where("stack_id", "=", stack.id)
      .where("agent_id", "=", target.agent_id)
      .execute();
  }
  const progressed = steps.done > rollout.done;
  await tx
    .updateTable("stack_rollouts")
    .set({
      done: steps.done,
      due_at: steps.lookAt ?? null,
      ...(progressed ? { progress_at: sql`now()` } : {}),
    })
    .where("id", "=", rollout.id)
    .execute();
  if (steps.end !== undefined) await end(ports, work, caller, held, rollout, steps.end);
  else if (steps.lookAt !== undefined) work.after(() => ports.ring());
  await noteStacks(ports.engine(), work, [await bump(tx, stack.id)]);
}

async function end(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  held: HeldStack,
  rollout: RolloutRow,
  how: NonNullable<ReturnType<typeof nextSteps>["end"]>,
): Promise<void> {
  const { tx } = work;
  const { stack } = held;
  if (how.state === "SUCCEEDED") {
    await endAs(tx, rollout.id, { state: "SUCCEEDED" });
    await sql`UPDATE stack_revisions SET stable_at = coalesce(stable_at, now())
      WHERE stack_id = ${stack.id} AND number = ${rollout.to_revision}`.execute(tx);
    await tx
      .updateTable("stacks")
      .set({
        stable_revision: rollout.to_revision,
        state: stack.desired === "STOPPED" ? "STOPPED" : "RUNNING",
        ...(rollout.cause === "revert" ? {} : { reason: "", message: "" }), // why it went back stays
      })
      .where("id", "=", stack.id)
      .execute();
    return;
  }
  const target = held.targets.find((one) => one.agent_id === how.agentId);
  const reason = how.reason === "TARGET_FAILED" ? target?.reason || how.reason : how.reason;
  const message =
    how.reason === "TARGET_FAILED"
      ? (target?.message ?? "")
      : `No agent became healthy within ${Math.round(policyOf(rollout.policy).progressDeadlineMs / 1000)} s.`;
  await failRollout(ports, work, caller, held, rollout, { reason, message });
}

/** Ends a rollout as failed and, where its policy says so and there is something to go back to, goes back (U3). */
async function failRollout(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  held: HeldStack,
  rollout: RolloutRow,
  why: { reason: string; message: string },
): Promise<void> {
  const { stack } = held;
  const back = stack.stable_revision;
  const reverts =
    policyOf(rollout.policy).autoRevert && rollout.cause !== "revert" && back !== 0 && back !== rollout.to_revision;
  await endAs(work.tx, rollout.id, { state: reverts ? "ROLLED_BACK" : "FAILED", ...why });
  if (reverts) await goBack(ports, work, caller, held, rollout);
  await work.tx
    .updateTable("stacks")
    .set({ ...why, ...(reverts ? {} : { state: "FAILED" }) })
    .where("id", "=", stack.id)
    .execute();
}

async function goBack(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  held: HeldStack,
  rollout: RolloutRow,
): Promise<void> {
  const { stack } = held;
  await beginRollout(ports, work, caller, await reread(work.tx, stack.id), {
    to: stack.stable_revision,
    cause: "revert",
    policy: rollout.policy,
  });
  const { rollout_id: next } = await work.tx
    .selectFrom("stacks")
    .select("rollout_id")
    .where("id", "=", stack.id)
    .executeTakeFirstOrThrow();
  await work.tx.updateTable("stack_rollouts").set({ followed_by: next }).where("id", "=", rollout.id).execute();
}

async function endAs(tx: Tx, id: string, values: { state: string; reason?: string; message?: string }): Promise<void> {
  await tx
    .updateTable("stack_rollouts")
    .set({ ...values, due_at: null, ended_at: sql`now()` })
    .where("id", "=", id)
    .execute();
}

/** Begins no further step until it is resumed, or goes on. Throws ROLLOUT_ENDED. */
export async function pauseOrResume(
  ports: StackPorts,
  work: Work,
  rolloutId: string,
  state: "PAUSED" | "RUNNING",
): Promise<void> {
  const { rollout, held } = await openRollout(ports, work, rolloutId);
  if (rollout.state === state) return;
  await work.tx
    .updateTable("stack_rollouts")
    .set({ state, progress_at: sql`now()`, due_at: state === "RUNNING" ? sql`now()` : null })
    .where("id", "=", rolloutId)
    .execute();
  await noteStacks(ports.engine(), work, [await bump(work.tx, held.stack.id)]);
  if (state === "RUNNING") work.after(() => ports.ring());
}

/** Ends it and rolls back to what was stable, where there is such. Throws ROLLOUT_ENDED. */
export async function abort(ports: StackPorts, work: Work, caller: Caller, rolloutId: string): Promise<void> {
  const { rollout, held } = await openRollout(ports, work, rolloutId);
  await endAs(work.tx, rolloutId, { state: "ABORTED" });
  const back = held.stack.stable_revision;
  if (back !== 0 && back !== rollout.to_revision) await goBack(ports, work, caller, held, rollout);
  else
    await work.tx
      .updateTable("stacks")
      .set({ state: "FAILED", reason: "ABORTED" })
      .where("id", "=", held.stack.id)
      .execute();
  await noteStacks(ports.engine(), work, [await bump(work.tx, held.stack.id)]);
}

async function openRollout(ports: StackPorts, work: Work, rolloutId: string) {
  const found = await holdRollout(ports, work, rolloutId);
  if (found === undefined) throw problem("NOT_FOUND", `There is no rollout ${rolloutId}.`);
  if (found.rollout.ended_at !== null)
    throw problem("ROLLOUT_ENDED", undefined, { metadata: { state: found.rollout.state } });
  return found;
}

async function bump(tx: Tx, stackId: string) {
  return tx
    .updateTable("stacks")
    .set({ version: sql`version + 1`, updated_at: sql`now()` })
    .where("id", "=", stackId)
    .returning(["id", "organisation_id", "cluster_id"])
    .executeTakeFirstOrThrow();
}

async function moment(tx: Tx, agentIds: readonly string[]): Promise<{ now: Date; online: Set<string> }> {
  const { rows } = await sql<{ now: Date; online: string[] }>`
    SELECT clock_timestamp() AS now, coalesce((SELECT jsonb_agg(agent_id) FROM sessions
      WHERE agent_id = ANY(${[...agentIds]}) AND state = 'SERVING'), '[]') AS online`.execute(tx);
  const [row] = rows;
  return { now: row?.now ?? new Date(), online: new Set(row?.online) };
}
