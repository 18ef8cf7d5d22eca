/** How rollouts end or rest, but for the way back (rollouts.ts). */
import { sql } from "kysely";
import { transact, type Tx } from "../platform/transactions.ts";
import type { StackPorts } from "./ports.ts";
import { bump, endAs, holdRollout } from "./rollout-rows.ts";
import { type HeldStack, noteStacks, type RolloutRow, type StackRow } from "./rows.ts";

/** It is what is stable now. */
export async function succeed(tx: Tx, stack: StackRow, rollout: RolloutRow): Promise<void> {
  await endAs(tx, rollout.id, { state: "SUCCEEDED" });
  await sql`UPDATE stack_revisions SET stable_at = coalesce(stable_at, now())
    WHERE stack_id = ${stack.id} AND number = ${rollout.to_revision}`.execute(tx);
  await sql`UPDATE stack_targets SET stable_wanted = wanted WHERE stack_id = ${stack.id}`.execute(tx);
  await tx
    .updateTable("stacks")
    .set({
      stable_revision: rollout.to_revision,
      stable_stamps: JSON.stringify(stack.restart_stamps),
      stable_secrets: JSON.stringify(rollout.secrets),
      colours: JSON.stringify(rollout.colours),
      state: stack.desired === "STOPPED" ? "STOPPED" : "RUNNING",
      ...(rollout.cause === "revert" ? {} : { reason: "", message: "" }), // why it went back stays
    })
    .where("id", "=", stack.id)
    .execute();
}

/** Nothing goes on until somebody resumes, promotes or aborts it. */
export async function pauseFor(
  tx: Tx,
  held: HeldStack,
  rollout: RolloutRow,
  { reason, agentId }: { reason: string; agentId: string },
): Promise<void> {
  const message = held.targets.find((target) => target.agent_id === agentId)?.message ?? "";
  await tx
    .updateTable("stack_rollouts")
    .set({ state: "PAUSED", reason, message, due_at: null })
    .where("id", "=", rollout.id)
    .execute();
}

/** Ends a rollout whose next step is refused however often it is tried. It goes back to nothing: that is a step, too. */
export async function endRefused(
  ports: StackPorts,
  rolloutId: string,
  why: { reason: string; message: string },
): Promise<void> {
  await transact(ports.engine().db, async (work) => {
    const found = await holdRollout(ports, work, rolloutId);
    if (found === undefined || found.rollout.ended_at !== null) return;
    await endAs(work.tx, rolloutId, { state: "FAILED", ...why });
    await work.tx
      .updateTable("stacks")
      .set({ state: "FAILED", ...why })
      .where("id", "=", found.held.stack.id)
      .execute();
    await noteStacks(ports.engine(), work, [await bump(work.tx, found.held.stack.id)]);
  });
}
