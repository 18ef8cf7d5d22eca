/**
 * What time does to commands. Any replica may run it; rows that another one
 * holds are left to it. Time is the database's.
 *
 * E3: what was seen without a lock is looked at again under the deployment's.
 */
import { sql } from "kysely";
import { lockDeployments } from "../deployments/index.ts";
import { transact } from "../platform/transactions.ts";
import type { ChangedCommand, EnginePorts } from "./ports.ts";
import { dispatchIsHeld } from "./claim.ts";
import { repairDrift } from "./repair.ts";
import { apply, lockCommands, tellOwners } from "./store.ts";
import type { CommandEvent } from "./transitions.ts";

/** Commands looked at in one transaction: bounded, so that its locks are short. */
const batch = 100;
/** A receipt that is missing this long is asked for by pushing again. */
export const pushAgainAfterMs = 5_000;
/** A session that answers no push for this long is closed. */
export const closeWithoutReceiptAfterMs = 60_000;

interface Due {
  command_id: string;
  deployment_id: string;
  agent_id: string;
  why: "due" | "deadline" | "offline" | "run-timeout" | "cancel-unanswered" | "unbound" | "orphan";
}

/**
 * One round. Returns how many commands it changed; `batch` or more means that more may be due.
 * `blames: false`: nothing happens for an agent's silence, because this replica could not hear it (E6).
 */
export async function sweep(ports: EnginePorts, { blames = true }: { blames?: boolean } = {}): Promise<number> {
  const { rows } = await sql<Due>`
    SELECT s.command_id, s.deployment_id, s.agent_id, CASE
      WHEN s.state = 'RETRY_WAIT' AND s.due_at <= now() THEN 'due'
      WHEN s.state IN ('READY', 'BLOCKED', 'RETRY_WAIT') AND NOT s.reduces AND c.deadline_at <= now() THEN 'deadline'
      WHEN s.state IN ('READY', 'BLOCKED', 'RETRY_WAIT') AND NOT s.reduces
        AND NOT EXISTS (SELECT 1 FROM sessions AS o WHERE o.agent_id = s.agent_id AND o.state <> 'ENDED')
        AND greatest(s.updated_at, (SELECT o.ended_at FROM sessions AS o WHERE o.agent_id = s.agent_id)) + make_interval(secs => c.offline_life_ms / 1000.0) <= now() THEN 'offline'
      WHEN ${blames} AND s.state IN ('ASSIGNED', 'RUNNING') AND s.bound_epoch IS NOT NULL
        AND coalesce(s.received_at, s.assigned_at) + make_interval(secs => (c.run_timeout_ms + c.grace_ms) / 1000.0) <= now() THEN 'run-timeout'
      WHEN ${blames} AND s.state = 'CANCELLING' AND s.bound_epoch IS NOT NULL
        AND s.cancelling_at + make_interval(secs => c.cancel_limit_ms / 1000.0) <= now() THEN 'cancel-unanswered'
      WHEN s.state IN ('ASSIGNED', 'RUNNING', 'CANCELLING') AND s.bound_epoch IS NULL AND NOT c.is_removal
        AND s.unbound_at + make_interval(secs => greatest(c.offline_life_ms, c.run_timeout_ms + c.grace_ms) / 1000.0) <= now() THEN 'unbound'
      WHEN s.state = 'BLOCKED' AND NOT EXISTS (SELECT 1 FROM command_states AS a WHERE a.deployment_id = s.deployment_id
        AND a.state IN ('READY', 'ASSIGNED', 'RUNNING', 'CANCELLING', 'RETRY_WAIT')) THEN 'orphan'
    END AS why
    FROM command_states AS s JOIN commands AS c ON c.id = s.command_id
    WHERE s.state IN ('BLOCKED', 'READY', 'ASSIGNED', 'RUNNING', 'CANCELLING', 'RETRY_WAIT')
      AND (
        (s.state = 'RETRY_WAIT' AND s.due_at <= now())
        OR (s.state IN ('READY', 'BLOCKED', 'RETRY_WAIT') AND NOT s.reduces AND (c.deadline_at <= now()
          OR s.updated_at + make_interval(secs => c.offline_life_ms / 1000.0) <= now()))
        OR (${blames} AND s.state IN ('ASSIGNED', 'RUNNING') AND s.bound_epoch IS NOT NULL AND coalesce(s.received_at, s.assigned_at) + make_interval(secs => (c.run_timeout_ms + c.grace_ms) / 1000.0) <= now())
        OR (${blames} AND s.state = 'CANCELLING' AND s.bound_epoch IS NOT NULL AND s.cancelling_at + make_interval(secs => c.cancel_limit_ms / 1000.0) <= now())
        OR (s.state IN ('ASSIGNED', 'RUNNING', 'CANCELLING') AND s.bound_epoch IS NULL AND s.unbound_at + make_interval(secs => greatest(c.offline_life_ms, c.run_timeout_ms + c.grace_ms) / 1000.0) <= now())
        OR (s.state = 'BLOCKED' AND s.updated_at < now() - interval '5 seconds')
      )
    LIMIT ${batch}`.execute(ports.db);
  const due = rows.filter((row) => row.why !== null);
  for (const row of due) await settle(ports, row);
  return due.length + (await repairDrift(ports));
}

async function settle(ports: EnginePorts, due: Due): Promise<void> {
  await transact(ports.db, async (work) => {
    await lockDeployments(work.tx, [due.deployment_id]);
    const [command] = await lockCommands(work.tx, { ids: [due.command_id] });
    if (command === undefined) return;
    if (due.why === "orphan") {
      if (command.state !== "BLOCKED") return;
      const others = await lockCommands(work.tx, { openOf: [due.deployment_id] });
      if (others.length > 1) return;
      ports.log.error({ command: command.id }, "a BLOCKED command had nothing ahead of it; promoted");
      work.after(() => ports.metrics?.defect("blocked_promoted"));
    }
    const changes: ChangedCommand[] = [];
    const event = eventOf(due.why);
    // A refusal says that it moved on between the look and the lock.
    const verdict = await apply(ports, work, command, event, changes);
    if (verdict.kind === "moved") work.after(() => ports.metrics?.swept(due.why));
    await tellOwners(ports, work, changes);
  });
}

function eventOf(why: Due["why"]): CommandEvent {
  switch (why) {
    case "due":
      return { kind: "due" };
    case "deadline":
      return { kind: "time-over", why: "DEADLINE" };
    case "offline":
      return { kind: "time-over", why: "OFFLINE_LIFE" };
    case "run-timeout":
      return { kind: "run-timeout" };
    case "cancel-unanswered":
      return { kind: "cancel-unanswered" };
    case "unbound":
      return { kind: "unbound-too-long" };
    case "orphan":
      return { kind: "ahead-ended" };
    default:
      return why satisfies never;
  }
}

/** Sessions whose commands lack a receipt: to be pushed again, or closed where it has been too long. */
export async function missingReceipts(
  ports: EnginePorts,
  replicaId: string,
): Promise<{ agentId: string; epoch: number; tooLong: boolean }[]> {
  const { rows } = await sql<{ agentId: string; epoch: number; tooLong: boolean }>`
    SELECT o.agent_id AS "agentId", o.epoch, bool_or(s.assigned_at <= now() - make_interval(secs => ${closeWithoutReceiptAfterMs / 1000})
        AND o.opened_at <= now() - make_interval(secs => ${closeWithoutReceiptAfterMs / 1000})) AS "tooLong"
    FROM sessions AS o JOIN command_states AS s ON s.agent_id = o.agent_id AND s.bound_epoch = o.epoch
    WHERE o.replica_id = ${replicaId} AND o.state = 'SERVING' AND s.state = 'ASSIGNED'
      AND s.assigned_at <= now() - make_interval(secs => ${pushAgainAfterMs / 1000}) AND NOT ${dispatchIsHeld}
    GROUP BY o.agent_id, o.epoch`.execute(ports.db);
  return rows;
}

/** Counts the session that ended without a receipt; at the limit the command FAILED (NOT_RECEIVED). */
export async function countMissingReceipts(ports: EnginePorts, agentId: string, epoch: number): Promise<void> {
  await transact(ports.db, async (work) => {
    const rows = await work.tx
      .selectFrom("command_states")
      .select(["command_id", "deployment_id"])
      .where("agent_id", "=", agentId)
      .where("bound_epoch", "=", epoch)
      .where("state", "=", "ASSIGNED")
      .where("assigned_at", "<=", sql<Date>`now() - make_interval(secs => ${closeWithoutReceiptAfterMs / 1000})`)
      .execute();
    await lockDeployments(
      work.tx,
      rows.map((row) => row.deployment_id),
    );
    const changes: ChangedCommand[] = [];
    for (const command of await lockCommands(work.tx, { ids: rows.map((row) => row.command_id) })) {
      await apply(ports, work, command, { kind: "no-receipt" }, changes);
    }
    await tellOwners(ports, work, changes);
  });
}
