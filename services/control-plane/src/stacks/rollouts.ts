/**
 * Rollouts: how a stack comes from one revision to another. steps.ts and
 * phases.ts decide; here their decisions become commands.
 *
 * U1: what a step enqueues and that it did are one transaction under the
 *     stack's name: no crash runs a step twice or loses one.
 * U2: a rollout that goes back never goes back itself, and waits for nothing
 *     but health.
 */
import { isDeepStrictEqual } from "node:util";
import { type RolloutPolicy, RolloutPolicySchema } from "@bowline/contract/stacks";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { newId } from "@bowline/kernel";
import { sql } from "kysely";
import { newDeploymentId } from "../deployments/index.ts";
import type { Caller } from "../platform/context.ts";
import { transact, type Tx, type Work } from "../platform/transactions.ts";
import { toggled } from "./colours.ts";
import { latenessOf } from "./lateness.ts";
import { firstPhase, nextPhase, type PhaseState } from "./phases.ts";
import { type Policy, policyOf } from "./policy.ts";
import type { StackPorts } from "./ports.ts";
import { modelOf, type StackModel } from "./revisions.ts";
import { bump, endAs, endOpen, holdRollout, moment, placed, reread } from "./rollout-rows.ts";
import { type HeldStack, itself, noteStacks, type RolloutRow, type StackRow } from "./rows.ts";
import { pauseFor, succeed } from "./rollout-ends.ts";
import { doubledServices } from "./sides.ts";
import { secretOf, versionsOf } from "./stack-secrets.ts";
import { nextSteps, type RolloutEnd } from "./steps.ts";
import { enqueue, viewOf } from "./targets.ts";
import { wishesOf } from "./wishes.ts";

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
  // What is gone back to stands where it was: its data is there, and what still runs of it.
  const were = cause === "revert" ? "stable_wanted" : "wanted";
  const { placement, waits } = await placed(tx, stack, model, held.targets, were);
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
  const secrets = await secretsFor(ports, tx, stack, { model, cause });
  const bytes = Buffer.from(policy instanceof Uint8Array ? policy : toBinary(RolloutPolicySchema, policy));
  const doubled = await sidesOf(tx, stack, cause, model, { policy: policyOf(bytes), secrets });
  const rollout = await tx
    .insertInto("stack_rollouts")
    .values({
      id,
      stack_id: stack.id,
      from_revision: stack.revision === to ? stack.stable_revision : stack.revision,
      to_revision: to,
      cause,
      state: "RUNNING",
      policy: bytes,
      secrets: JSON.stringify(secrets),
      phase: firstPhase(policyOf(bytes), doubled),
      side_by_side: JSON.stringify(doubled),
      colours: JSON.stringify(toggled(stack.colours, doubled)),
      total: placement.size,
      created_by: caller.principal.id,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
  await tx
    .updateTable("stacks")
    .set({ revision: to, rollout_id: id, state: "ROLLING_OUT", reason: "", message: "", waits: JSON.stringify(waits) })
    .where("id", "=", stack.id)
    .execute();
  await stepOn(ports, work, caller, await reread(tx, stack.id), rollout, model);
}

/**
 * The way back takes the values that were stable, not the newest, which may be why it goes back. What nobody asked for
 * (a host that joined) and what only stops take those that were brought last.
 */
async function secretsFor(
  ports: StackPorts,
  tx: Tx,
  stack: StackRow,
  { model, cause }: { model: StackModel; cause: Cause },
): Promise<Record<string, string>> {
  const before = cause === "revert" ? stack.stable_secrets : await broughtLast(tx, stack, cause);
  const known = before !== undefined && model.secrets.every(({ name }) => before[secretOf(model, name)] !== undefined);
  return known ? before : versionsOf(ports, tx, stack, model);
}

async function broughtLast(
  tx: Tx,
  { rollout_id: id }: StackRow,
  cause: Cause,
): Promise<RolloutRow["secrets"] | undefined> {
  if (cause !== "place" && cause !== "stop") return undefined;
  return (await tx.selectFrom("stack_rollouts").select("secrets").where("id", "=", id).executeTakeFirst())?.secrets;
}

/** One step of a rollout that is due. Nothing where it has ended meanwhile. */
export async function advance(ports: StackPorts, rolloutId: string): Promise<void> {
  await transact(ports.engine().db, async (work) => {
    const found = await holdRollout(ports, work, rolloutId);
    if (found === undefined) throw new Error("the rollout is not there any more, or its cluster is not");
    if (found.rollout.ended_at !== null) return;
    const model = await modelOf(work.tx, found.held.stack.id, found.rollout.to_revision);
    await stepOn(ports, work, itself, found.held, found.rollout, model);
  });
}

/** Services that old and new run of at one time; none where the rollout is not of that kind. */
async function sidesOf(
  tx: Tx,
  stack: StackRow,
  cause: Cause,
  model: StackModel,
  { policy, secrets }: { policy: Policy; secrets: Record<string, string> },
): Promise<string[]> {
  if (policy.strategy === "ROLLING" || (cause !== "apply" && cause !== "rollback")) return [];
  if (stack.stable_revision === 0 || stack.state === "STOPPED") return [];
  const stable = await modelOf(tx, stack.id, stack.stable_revision);
  return doubledServices(
    { model: stable, options: { stamps: stack.stable_stamps, secretVersions: stack.stable_secrets } },
    { model, options: { stamps: stack.restart_stamps, secretVersions: secrets } },
  );
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
  const { now, online, until } = await moment(tx, rollout, held.targets);
  const wishOf = await wishesOf(tx, held, rollout, model, online);
  const more = rollout.phase !== "UPDATING";
  const views = held.targets.map((target) =>
    viewOf(target, { wish: wishOf(target), online: online.get(target.agent_id), stack, rollout, more }),
  );
  const steps = nextSteps(
    {
      ...{ ...policy, more, paused: rollout.state === "PAUSED" },
      progressAt: rollout.at_rest ? now : rollout.progress_at, // time at rest does not count
    },
    views.map(({ step }) => step),
    now,
  );
  const begun = views.filter(({ step }) => steps.begin.includes(step.agentId));
  await enqueue(ports, work, caller, stack, rollout, begun);
  const paused = rollout.state === "PAUSED";
  const next = steps.end?.state === "DONE" ? nextPhase(phaseStateOf(rollout), policy, now) : undefined;
  const atRest = paused ? rollout.at_rest : next?.kind === "awaits-promotion" || next?.kind === "keeps";
  const after = await tx
    .updateTable("stack_rollouts")
    .set({
      done: steps.done,
      at_rest: atRest,
      due_at: next?.kind === "keeps" ? next.until : earlier(steps.lookAt, until),
      ...(next?.kind === "keeps" ? { keep_until: next.until } : {}),
      ...(next?.kind === "phase" ? { phase: next.phase, done: 0 } : {}),
      ...(steps.done > rollout.done || next?.kind === "phase" || (rollout.at_rest && !paused)
        ? { progress_at: sql`now()` }
        : {}),
    })
    .where("id", "=", rollout.id)
    .returningAll()
    .executeTakeFirstOrThrow();
  if (next?.kind === "phase") return stepOn(ports, work, caller, await reread(tx, stack.id), after, model);
  if (next?.kind === "succeeded") await succeed(tx, stack, rollout);
  else if (steps.end?.state === "PAUSED") await pauseFor(tx, held, rollout, steps.end);
  else if (steps.end?.state === "FAILED") await fail(ports, work, caller, held, rollout, steps.end);
  else if (after.due_at !== null) work.after(() => ports.ring());
  await noteStacks(ports.engine(), work, [await bump(tx, stack.id)]);
}

function earlier(one: Date | undefined, other: Date | undefined): Date | null {
  if (one === undefined || other === undefined) return one ?? null; // nothing to look at: it rests, or ends
  return one < other ? one : other;
}

function phaseStateOf(rollout: RolloutRow): PhaseState {
  return {
    phase: rollout.phase as PhaseState["phase"],
    promoted: rollout.promoted,
    keepUntil: rollout.keep_until ?? undefined,
  };
}

async function fail(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  held: HeldStack,
  rollout: RolloutRow,
  how: Extract<RolloutEnd, { state: "FAILED" }>,
): Promise<void> {
  const target = held.targets.find((one) => one.agent_id === how.agentId);
  const reason = how.reason === "TARGET_FAILED" ? target?.reason || how.reason : how.reason;
  const policy = policyOf(rollout.policy);
  const seconds = (ms: number): number => Math.round(ms / 1000);
  const late = target === undefined || how.reason === "TARGET_FAILED" ? "" : await latenessOf(work.tx, target);
  const message = {
    TARGET_FAILED: target?.message ?? "",
    HEALTHY_DEADLINE: `An agent's part was not healthy within ${seconds(policy.healthyDeadlineMs)} s.${late}`,
    PROGRESS_DEADLINE: `No instance became healthy within ${seconds(policy.progressDeadlineMs)} s.${late}`,
  }[how.reason];
  await failRollout(ports, work, caller, held, rollout, { reason, message });
}

/** Ends a rollout as failed and, where its policy says so and there is something to go back to, goes back (U2). */
async function failRollout(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  held: HeldStack,
  rollout: RolloutRow,
  why: { reason: string; message: string },
): Promise<void> {
  const { stack } = held;
  const reverts = policyOf(rollout.policy).autoRevert && rollout.cause !== "revert" && hasWayBack(stack, rollout);
  await endAs(work.tx, rollout.id, { state: reverts ? "ROLLED_BACK" : "FAILED", ...why });
  if (reverts) await goBack(ports, work, caller, held, rollout);
  await work.tx
    .updateTable("stacks")
    .set({ ...why, ...(reverts ? {} : { state: "FAILED" }) })
    .where("id", "=", stack.id)
    .execute();
}

/** Whether what was stable is something else than what a rollout brings: another revision, or other values of secrets. */
export function hasWayBack(stack: StackRow, rollout: RolloutRow): boolean {
  const { stable_revision: stable, stable_secrets: values } = stack;
  return stable !== 0 && (stable !== rollout.to_revision || !isDeepStrictEqual(values, rollout.secrets));
}

/** Begins the rollout to what was stable, and says so in the one before it. */
export async function goBack(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  held: HeldStack,
  rollout: RolloutRow,
): Promise<void> {
  const { stack } = held;
  const given = fromBinary(RolloutPolicySchema, rollout.policy);
  // Where the old still runs beside the new, all agents just switch back.
  const atOnce = rollout.side_by_side.length > 0;
  const policy = atOnce ? { ...given, maxParallel: Math.max(1, held.targets.length) } : given;
  await work.tx
    .updateTable("stacks")
    .set({ restart_stamps: JSON.stringify(stack.stable_stamps) })
    .where("id", "=", stack.id)
    .execute();
  await beginRollout(ports, work, caller, await reread(work.tx, stack.id), {
    to: stack.stable_revision,
    cause: "revert",
    policy,
  });
  const { rollout_id: next } = await work.tx
    .selectFrom("stacks")
    .select("rollout_id")
    .where("id", "=", stack.id)
    .executeTakeFirstOrThrow();
  await work.tx.updateTable("stack_rollouts").set({ followed_by: next }).where("id", "=", rollout.id).execute();
}
