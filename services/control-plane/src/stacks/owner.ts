/**
 * What outcomes of commands and observed states do to stacks, in the
 * transaction that records them.
 *
 * O1: a handler writes targets and makes the stack's rollout due; it decides
 *     nothing (H2).
 * O2: a target that was done stays so while it is converged anew, until that fails.
 * O3: a removal that did not succeed goes on by itself; the target is there until it did, or its agent is gone for good.
 * O4: where no rollout is under way a stack is FAILED while a target is: an agent that was away gets its part after
 *     the rollout has ended, and a repair may fail.
 * O5: in a rollout what has ended badly and is not started again fails its target at once: no deadline would make it
 *     healthy. Not once it has switched: what ends then may be the old, which is only kept.
 * O6: each instance that is newly healthy sets back the clock of the progress deadline; one that starts over and over
 *     does so once.
 * O7: an agent that stays away for longer than a command waits has not failed: its part is owed, and wished again when
 *     it is back. It fails no rollout, and makes no stack FAILED.
 */
import { type CommandState, openCommandStates } from "@bowline/db";
import { sql } from "kysely";
import { absenceReasons, type ChangedCommand, type Owner } from "../commands/index.ts";
import { seesAll } from "../platform/context.ts";
import type { Work } from "../platform/transactions.ts";
import type { StackPorts } from "./ports.ts";
import { touchStacks } from "./rows.ts";

/** A target's state while its command is in this one; undefined: what it was. */
export function targetStateOf(state: CommandState): "PENDING" | "APPLYING" | "DONE" | "TARGET_FAILED" | undefined {
  switch (state) {
    case "BLOCKED":
    case "READY":
    case "ASSIGNED":
      return "PENDING";
    case "RETRY_WAIT":
    case "RUNNING":
    case "CANCELLING":
      return "APPLYING";
    case "SUCCEEDED":
      return "DONE";
    case "FAILED":
    case "CANCELLED":
    case "EXPIRED":
    case "LOST":
      return "TARGET_FAILED";
    case "SUPERSEDED":
      return undefined;
    default:
      return state satisfies never;
  }
}

/** O7. */
function isOwed({ state, reason }: ChangedCommand): boolean {
  return targetStateOf(state) === "TARGET_FAILED" && absenceReasons.includes(reason);
}

/** What leaves nothing at the agent: done, or the agent is gone for good. */
const gone: readonly CommandState[] = ["SUCCEEDED", "LOST", "CANCELLED"];

export function stackOwner(ports: StackPorts): Owner {
  return {
    followsReturns: true, // O7
    called: async (db, principal, idOrName) => {
      let query = db
        .selectFrom("stacks")
        .select("id")
        .where((where) => where.or([where("id", "=", idOrName), where("name", "=", idOrName)]));
      if (!seesAll(principal)) query = query.where("organisation_id", "=", principal.organisationId);
      return (await query.execute()).map(({ id }) => id);
    },
    names: async (db, ids) => {
      const rows = await db
        .selectFrom("stacks")
        .select(["id", "name"])
        .where("id", "=", sql<string>`any(${[...ids]})`)
        .execute();
      return new Map(rows.map(({ id, name }) => [id, name]));
    },
    async changed(work, commands) {
      await targetsChanged(
        work,
        commands.filter((command) => !command.isRemoval),
      );
      await removalsChanged(
        work,
        commands.filter((command) => command.isRemoval),
      );
      await settle(ports, work, [...new Set(commands.map((command) => command.ownerId))]);
    },
    async renewed(work, command) {
      await sql`
        UPDATE stack_targets SET command_id = ${command.commandId}, generation = ${command.generation}, reason = '',
          message = '', updated_at = now(),
          state = CASE WHEN state = 'REMOVING' OR state = 'DONE' AND NOT ${command.fromNothing} THEN state -- O2
            ELSE 'PENDING' END
        WHERE deployment_id = ${command.deploymentId}`.execute(work.tx);
      await settle(ports, work, [command.ownerId]);
    },
    async retired(work, agentId) {
      const rows = await work.tx
        .deleteFrom("stack_targets")
        .where("agent_id", "=", agentId)
        .returning("stack_id")
        .execute();
      await settle(
        ports,
        work,
        rows.map((row) => row.stack_id),
      );
    },
    async progressed(work, commandIds) {
      const rows = await work.tx
        .selectFrom("commands")
        .select("owner_id")
        .where("id", "=", sql<string>`any(${[...commandIds]})`)
        .distinct()
        .execute();
      await touchStacks(
        ports.engine(),
        work,
        rows.map((row) => row.owner_id),
      );
    },
    async observed(work, deploymentIds) {
      const { rows } = await sql<{ stack_id: string }>`
        UPDATE stack_targets AS t SET healthy_since = CASE WHEN h.healthy THEN coalesce(t.healthy_since, now()) END
        FROM (SELECT d.id, NOT EXISTS (SELECT 1 FROM instances AS i WHERE i.deployment_id = d.id AND NOT (
            i.phase = 'RUNNING' AND i.health <> 'UNHEALTHY' OR i.phase = 'EXITED' AND i.exit_code = 0)) AS healthy
          FROM unnest(${[...deploymentIds]}::text[]) AS d (id)) AS h
        WHERE t.deployment_id = h.id AND t.state = 'DONE' RETURNING t.stack_id`.execute(work.tx);
      await failEnded(work, deploymentIds);
      await noteProgress(work, deploymentIds);
      await settle(ports, work, [...new Set(rows.map((row) => row.stack_id))]);
    },
  };
}

async function targetsChanged(work: Work, commands: readonly ChangedCommand[]): Promise<void> {
  // Of several changes of one command in a transaction the last one counts.
  const rows = [...new Map(commands.map((command) => [command.id, command])).values()].filter(
    (command) => targetStateOf(command.state) !== undefined,
  );
  if (rows.length === 0) return;
  const column = <T>(read: (command: ChangedCommand) => T): T[] => rows.map(read);
  await sql`
    UPDATE stack_targets AS t SET reason = n.reason, message = n.message, updated_at = now(),
      state = CASE WHEN t.state = 'DONE' AND n.state <> 'TARGET_FAILED' THEN 'DONE' ELSE n.state END, -- O2
      healthy_since = CASE WHEN n.state = 'DONE' THEN coalesce(t.healthy_since, now())
        WHEN n.state = 'TARGET_FAILED' THEN NULL ELSE t.healthy_since END
    FROM unnest(${column((c) => c.deploymentId)}::text[], ${column((c) => c.generation)}::int[],
      ${column((c) => (isOwed(c) ? "PENDING" : targetStateOf(c.state)))}::text[], ${column((c) => c.reason)}::text[],
      ${column((c) => c.message)}::text[]) AS n (deployment_id, generation, state, reason, message)
    WHERE t.deployment_id = n.deployment_id AND t.generation = n.generation AND t.state <> 'REMOVING'`.execute(work.tx);
}

async function removalsChanged(work: Work, commands: readonly ChangedCommand[]): Promise<void> {
  for (const { deploymentId, generation, state, reason, message } of commands) {
    // An older removal says nothing of a newer one, which takes volumes along.
    if (gone.includes(state)) {
      await work.tx
        .deleteFrom("stack_targets")
        .where("deployment_id", "=", deploymentId)
        .where("generation", "=", generation)
        .execute();
    } else if (state !== "SUPERSEDED") {
      await work.tx
        .updateTable("stack_targets")
        .set({ state: "REMOVING", reason, message, updated_at: sql`now()` })
        .where("deployment_id", "=", deploymentId)
        .where("generation", "=", generation)
        .execute();
    }
  }
}

/** O5. */
async function failEnded(work: Work, deploymentIds: readonly string[]): Promise<void> {
  await sql`
    UPDATE stack_targets AS t SET state = 'TARGET_FAILED', reason = 'START_FAILED', healthy_since = NULL, updated_at = now(),
      message = 'workload ' || i.workload || ' ' || CASE WHEN i.reason = '' THEN 'ended with exit code ' || i.exit_code
        ELSE i.reason END
    FROM (SELECT DISTINCT ON (deployment_id) * FROM instances
      WHERE deployment_id = ANY(${[...deploymentIds]}) AND phase = 'EXITED' AND exit_code <> 0
      ORDER BY deployment_id, workload, index) AS i
    WHERE t.deployment_id = i.deployment_id AND t.generation = i.generation AND t.state = 'DONE'
      AND EXISTS (SELECT 1 FROM stack_rollouts AS r JOIN stacks AS s ON s.id = r.stack_id
        WHERE r.id = t.rollout_id AND r.ended_at IS NULL AND r.phase <> 'SWITCHING' AND s.desired = 'RUNNING')`.execute(
    work.tx,
  );
}

/** O6. What ran before this generation began says nothing of it. */
async function noteProgress(work: Work, deploymentIds: readonly string[]): Promise<void> {
  await sql`
    WITH healthier AS (
      UPDATE stack_targets AS t SET healthy_instances = n.healthy
      FROM (SELECT t.deployment_id, count(*)::int AS healthy
        FROM stack_targets AS t
        JOIN stack_rollouts AS r ON r.id = t.rollout_id AND r.ended_at IS NULL
        JOIN instances AS i ON i.deployment_id = t.deployment_id AND i.renewed_at >= t.begun_at
        WHERE t.deployment_id = ANY(${[...deploymentIds]}) AND (i.health = 'HEALTHY'
          OR i.phase = 'RUNNING' AND i.health <> 'UNHEALTHY' AND NOT t.checked ? i.workload
          OR i.phase = 'EXITED' AND i.exit_code = 0)
        GROUP BY t.deployment_id) AS n
      WHERE t.deployment_id = n.deployment_id AND t.healthy_instances < n.healthy
      RETURNING t.rollout_id)
    UPDATE stack_rollouts AS r SET progress_at = now() FROM healthier AS h WHERE r.id = h.rollout_id`.execute(work.tx);
}

/** What follows from changed targets: a rollout is due, and a stack that is being removed may be gone. */
async function settle(ports: StackPorts, work: Work, stackIds: readonly string[]): Promise<void> {
  if (stackIds.length === 0) return;
  const ids = [...stackIds];
  await touchStacks(ports.engine(), work, ids);
  const { rows: gone } = await sql<{ id: string }>`
    UPDATE stacks SET state = 'DELETED', reason = '', message = '' WHERE id = ANY(${ids}) AND state = 'DELETING'
      AND NOT EXISTS (SELECT 1 FROM stack_targets AS t WHERE t.stack_id = stacks.id)
      AND NOT EXISTS (SELECT 1 FROM commands AS c JOIN command_states AS cs ON cs.command_id = c.id
        WHERE c.owner_id = stacks.id AND c.is_removal AND cs.state = ANY(${[...openCommandStates]})) RETURNING id`.execute(
    work.tx,
  );
  await ports.dropSecrets(
    work.tx,
    gone.map(({ id }) => id),
  ); // X2
  await showFailures(work, ids);
  const { numAffectedRows } = await sql`
    UPDATE stack_rollouts SET due_at = now() WHERE stack_id = ANY(${ids}) AND ended_at IS NULL`.execute(work.tx);
  if ((numAffectedRows ?? 0n) > 0n) work.after(() => ports.ring());
}

/** O4. */
async function showFailures({ tx }: Work, stackIds: readonly string[]): Promise<void> {
  await sql`
    UPDATE stacks AS s SET state = 'FAILED', reason = t.reason, message = t.message
    FROM (SELECT DISTINCT ON (stack_id) stack_id, reason, message FROM stack_targets
      WHERE stack_id = ANY(${[...stackIds]}) AND state = 'TARGET_FAILED' ORDER BY stack_id, agent_id) AS t
    WHERE s.id = t.stack_id AND s.state = 'RUNNING'
      AND NOT EXISTS (SELECT 1 FROM stack_rollouts AS r WHERE r.stack_id = s.id AND r.ended_at IS NULL)`.execute(tx);
  await sql`
    UPDATE stacks AS s SET state = 'RUNNING', reason = '', message = '' FROM stack_rollouts AS r
    WHERE s.id = ANY(${[...stackIds]}) AND s.state = 'FAILED' AND r.id = s.rollout_id AND r.state = 'SUCCEEDED'
      AND NOT EXISTS (SELECT 1 FROM stack_targets AS t WHERE t.stack_id = s.id AND t.state = 'TARGET_FAILED')`.execute(
    tx,
  );
}
