/** What people ask of a rollout that is under way. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { RolloutPolicySchema } from "@bowline/contract/stacks";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Caller } from "../platform/context.ts";
import type { Work } from "../platform/transactions.ts";
import { policyOf } from "./policy.ts";
import type { StackPorts } from "./ports.ts";
import { bump, endAs, holdRollout } from "./rollout-rows.ts";
import { goBack, hasWayBack } from "./rollouts.ts";
import { audited, noteStacks, type RolloutRow, type StackRow } from "./rows.ts";
import { refuseAsItStands } from "./standing.ts";
import { gateInconclusive } from "./targets.ts";

/** Begins no further step until it is resumed, or goes on. Throws ROLLOUT_ENDED; of a resume COMPOSE_REFUSED_BY_POLICY. */
export async function pauseOrResume(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  rolloutId: string,
  state: "PAUSED" | "RUNNING",
): Promise<void> {
  const { rollout, held } = await openRollout(ports, work, rolloutId);
  if (rollout.state === state) return;
  if (state === "RUNNING") await refuseUnlessItReduces(ports, work, held.stack, rollout);
  // What a gate could not tell of is asked again: by a new generation.
  if (state === "RUNNING") await settleInconclusive(work, rollout, { spec_digest: "" });
  if (state === "RUNNING") await startClocks(work, rollout);
  await work.tx
    .updateTable("stack_rollouts")
    .set({ state, reason: "", message: "", progress_at: sql`now()`, due_at: state === "RUNNING" ? sql`now()` : null })
    .where("id", "=", rolloutId)
    .execute();
  await noteStacks(ports.engine(), work, [await bump(work.tx, held.stack.id)]);
  await audited(ports, work, caller, held.stack, state === "PAUSED" ? "rollout.pause" : "rollout.resume", {
    rolloutId,
  });
  if (state === "RUNNING") work.after(() => ports.ring());
}

/** Ends it and rolls back to what was stable, where there is such. Throws ROLLOUT_ENDED. */
export async function abort(ports: StackPorts, work: Work, caller: Caller, rolloutId: string): Promise<void> {
  const { rollout, held } = await openRollout(ports, work, rolloutId);
  await endAs(work.tx, rolloutId, { state: "ABORTED" });
  if (hasWayBack(held.stack, rollout)) await goBack(ports, work, caller, held, rollout);
  else
    await work.tx
      .updateTable("stacks")
      .set({ state: "FAILED", reason: "ABORTED" })
      .where("id", "=", held.stack.id)
      .execute();
  await noteStacks(ports.engine(), work, [await bump(work.tx, held.stack.id)]);
  await audited(ports, work, caller, held.stack, "rollout.abort", { rolloutId });
}

/**
 * Goes on to what is new; `full`: and lets what was go as soon as the ports have switched. Asked again it changes
 * nothing. Throws ROLLOUT_ENDED, ROLLOUT_NOT_PROMOTABLE, COMPOSE_REFUSED_BY_POLICY.
 */
export async function promote(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  { id: rolloutId, full }: { id: string; full: boolean },
): Promise<void> {
  const { rollout, held } = await openRollout(ports, work, rolloutId);
  const waits = (rollout.phase === "PREPARING" || rollout.phase === "CANARIES") && !rollout.promoted;
  const unclear = rollout.reason === gateInconclusive;
  const given = fromBinary(RolloutPolicySchema, rollout.policy);
  const releases = full && rollout.phase !== "UPDATING" && policyOf(rollout.policy).keepOldMs > 0;
  if (!waits && !unclear && !releases) {
    if (rollout.promoted || (full && rollout.phase === "SWITCHING")) return; // whoever asks again has what they want
    throw problem("ROLLOUT_NOT_PROMOTABLE");
  }
  if (waits || unclear) await refuseUnlessItReduces(ports, work, held.stack, rollout);
  await settleInconclusive(work, rollout, {});
  if (rollout.state === "PAUSED") await startClocks(work, rollout);
  const atOnce = { ...given, keepOld: durationFromMs(0) };
  await work.tx
    .updateTable("stack_rollouts")
    .set({
      ...{ state: "RUNNING", reason: "", message: "", progress_at: sql`now()`, due_at: sql`now()` },
      ...(waits ? { promoted: true } : {}),
      ...(releases ? { policy: Buffer.from(toBinary(RolloutPolicySchema, create(RolloutPolicySchema, atOnce))) } : {}),
      ...(releases && rollout.keep_until !== null ? { keep_until: sql`now()` } : {}),
    })
    .where("id", "=", rolloutId)
    .execute();
  await noteStacks(ports.engine(), work, [await bump(work.tx, held.stack.id)]);
  await audited(ports, work, caller, held.stack, "rollout.promote", { rolloutId, phase: rollout.phase, full });
  work.after(() => ports.ring());
}

/** Going back and stopping are never refused (K1). */
async function refuseUnlessItReduces(
  ports: StackPorts,
  work: Work,
  stack: StackRow,
  { cause, to_revision: revision }: RolloutRow,
): Promise<void> {
  if (cause !== "revert" && cause !== "stop") await refuseAsItStands(ports, work.tx, stack, revision);
}

async function settleInconclusive(work: Work, rollout: RolloutRow, more: { spec_digest?: string }): Promise<void> {
  await work.tx
    .updateTable("stack_targets")
    .set({ reason: "", message: "", ...more })
    .where("rollout_id", "=", rollout.id)
    .where("reason", "=", gateInconclusive)
    .execute();
}

/** After a pause what is under way has all of its healthy deadline again; the progress deadline begins anew too. */
async function startClocks({ tx }: Work, rollout: RolloutRow): Promise<void> {
  await tx
    .updateTable("stack_targets")
    .set({ begun_at: sql`now()`, healthy_instances: 0 })
    .where("rollout_id", "=", rollout.id)
    .where("healthy_since", "is", null)
    .execute();
}

async function openRollout(ports: StackPorts, work: Work, rolloutId: string) {
  const found = await holdRollout(ports, work, rolloutId);
  if (found === undefined) throw problem("NOT_FOUND", `There is no rollout ${rolloutId}.`);
  if (found.rollout.ended_at !== null)
    throw problem("ROLLOUT_ENDED", undefined, { metadata: { state: found.rollout.state } });
  return found;
}
