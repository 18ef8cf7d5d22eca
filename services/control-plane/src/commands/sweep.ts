/**
 * What time does to commands. Any replica may run it; rows that another one
 * holds are left to it. Time is the database's.
 *
 * E3: what was seen without a lock is looked at again under the deployment's.
 * S1: a round looks at a bounded page of what is open and the next one goes on
 *     behind it, so that what may wait for long (removals at hosts that are
 *     away) keeps nothing else from its turn.
 * S2: a command that cannot be settled costs that command.
 * S3: after everybody was away (the servers were switched off over a weekend)
 *     agents have time to come back before their absence counts.
 */
import { openCommandStates, sqlList } from "@bowline/db";
import { sql } from "kysely";
import { lockDeployments } from "../deployments/index.ts";
import { isDatabaseAway } from "../platform/problems.ts";
import { transact, type Tx } from "../platform/transactions.ts";
import type { EnginePorts } from "./ports.ts";
import { dispatchIsHeld } from "./claim.ts";
import { dueEvent, type DueReason } from "./decisions.ts";
import { repairDrift } from "./repair.ts";
import { apply, changeSet, finish, lockCommands } from "./store.ts";

/** Open commands that one round looks at; the next round goes on behind them (S1). A round is one statement of some ms. */
const pageSize = 2_000;
/** Of those, how many one round settles: each has a transaction of its own. */
const batch = 100;
/** A receipt that is missing this long is asked for by pushing again. */
export const pushAgainAfterMs = 5_000;
/** A session that answers no push for this long is closed. */
export const closeWithoutReceiptAfterMs = 60_000;

interface Due {
  command_id: string;
  deployment_id: string;
  why: DueReason;
}

/** Where a sweep goes on (S1). One per loop. */
export interface SweepPlace {
  /** The deployment whose commands come next. */
  from: string;
}

/** For what agents may be blamed. */
export interface Blames {
  /** False: nothing happens for the silence of one that is connected, because this replica could not hear it (E6). */
  silence: boolean;
  /** False: nothing happens for the absence of one that is not, because it could not have come (S3). */
  absence: boolean;
}

/** One round. Returns how many commands it changed; above 0 more may be due. */
export async function sweep(
  ports: EnginePorts,
  { blames = { silence: true, absence: true }, place = { from: "" } }: { blames?: Blames; place?: SweepPlace } = {},
): Promise<number> {
  let changed = 0;
  for (const row of [...(await dueRetries(ports)), ...(await timedOut(ports, place, blames))]) {
    try {
      if (await settle(ports, row, blames)) changed += 1;
    } catch (error) {
      if (isDatabaseAway(error)) throw error;
      ports.log.error({ error, command: row.command_id, why: row.why }, "a command could not be swept; tried again"); // S2
    }
  }
  return changed + (await repairDrift(ports));
}

const retryIsDue = sql<boolean>`state = 'RETRY_WAIT' AND due_at <= now()`;

async function dueRetries(ports: EnginePorts): Promise<Due[]> {
  const { rows } = await sql<Due>`
    SELECT command_id, deployment_id, 'due' AS why FROM command_states
    WHERE ${retryIsDue} ORDER BY due_at LIMIT ${batch}`.execute(ports.db);
  return rows;
}

/** Why the time of an open command `s` (`c` is what it says) is over, if it is. */
function whyTimeIsOver(blames: Blames) {
  return sql<DueReason | null>`CASE
    WHEN s.state IN ('READY', 'BLOCKED', 'RETRY_WAIT') AND NOT s.reduces AND c.deadline_at <= now() THEN 'deadline'
    WHEN ${blames.absence} AND s.state IN ('READY', 'BLOCKED', 'RETRY_WAIT') AND NOT s.reduces
      AND NOT EXISTS (SELECT 1 FROM sessions AS o WHERE o.agent_id = s.agent_id AND o.state <> 'ENDED')
      AND greatest(s.updated_at, (SELECT o.ended_at FROM sessions AS o WHERE o.agent_id = s.agent_id)) + make_interval(secs => c.offline_life_ms / 1000.0) <= now() THEN 'offline'
    WHEN ${blames.silence} AND s.state IN ('ASSIGNED', 'RUNNING') AND s.bound_epoch IS NOT NULL
      AND coalesce(s.received_at, s.assigned_at) + make_interval(secs => (c.run_timeout_ms + c.grace_ms) / 1000.0) <= now() THEN 'run-timeout'
    WHEN ${blames.silence} AND s.state = 'CANCELLING' AND s.bound_epoch IS NOT NULL
      AND s.cancelling_at + make_interval(secs => c.cancel_limit_ms / 1000.0) <= now() THEN 'cancel-unanswered'
    WHEN ${blames.absence} AND s.state IN ('ASSIGNED', 'RUNNING', 'CANCELLING') AND s.bound_epoch IS NULL AND NOT c.is_removal
      AND s.unbound_at + make_interval(secs => greatest(c.offline_life_ms, c.run_timeout_ms + c.grace_ms) / 1000.0) <= now() THEN 'unbound'
    WHEN s.state = 'BLOCKED' AND s.updated_at < now() - interval '5 seconds' AND NOT EXISTS (
      SELECT 1 FROM command_states AS a WHERE a.deployment_id = s.deployment_id
      AND a.state IN ('READY', 'ASSIGNED', 'RUNNING', 'CANCELLING', 'RETRY_WAIT')) THEN 'orphan'
    END`;
}

/** Of the next page of open commands those whose time is over; what is due for another reason than time moves on by itself. */
async function timedOut(ports: EnginePorts, place: SweepPlace, blames: Blames): Promise<Due[]> {
  const { rows } = await sql<Omit<Due, "why"> & { why: DueReason | null; looked: number; last: string }>`
    WITH page AS MATERIALIZED (
      SELECT s.* FROM command_states AS s WHERE s.state IN (${sql.raw(sqlList(openCommandStates))})
        AND s.deployment_id >= ${place.from} ORDER BY s.deployment_id LIMIT ${pageSize}
    ), found AS (
      SELECT s.command_id, s.deployment_id, ${whyTimeIsOver(blames)} AS why
      FROM page AS s JOIN commands AS c ON c.id = s.command_id
    ), due AS (
      SELECT * FROM found WHERE why IS NOT NULL ORDER BY deployment_id LIMIT ${batch}
    )
    SELECT due.*, at.looked, at.last FROM (SELECT count(*)::int AS looked, max(deployment_id) AS last FROM page) AS at
      LEFT JOIN due ON true ORDER BY due.deployment_id`.execute(ports.db);
  const due = rows.flatMap((row) => (row.why === null ? [] : [{ ...row, why: row.why }]));
  const end = due.length === batch ? due.at(-1)?.deployment_id : undefined;
  place.from = end ?? (rows[0]?.looked === pageSize ? rows[0].last : "");
  return due;
}

/** Whether it changed. */
async function settle(ports: EnginePorts, due: Due, blames: Blames): Promise<boolean> {
  return transact(ports.db, async (work) => {
    if (due.why === "offline" || due.why === "unbound") await lockAbsence(work.tx, due);
    await lockDeployments(work.tx, [due.deployment_id]);
    const [command] = await lockCommands(work.tx, { ids: [due.command_id] });
    if (command === undefined) return false;
    if (!(await isStillDue(work.tx, due, blames))) return false; // E3
    if (due.why === "orphan") {
      ports.log.error({ command: command.id }, "a BLOCKED command had nothing ahead of it; promoted");
      work.after(() => ports.metrics?.defect("blocked_promoted"));
    }
    const set = changeSet();
    const event = dueEvent(due.why);
    const verdict = apply(ports, work, command, event, set);
    if (verdict.kind === "moved") work.after(() => ports.metrics?.swept(due.why));
    await finish(ports, work, set);
    return verdict.kind === "moved";
  });
}

/** Whoever comes back meanwhile finds what has lapsed (A4), or it has not. */
async function lockAbsence(tx: Tx, due: Due): Promise<void> {
  await sql`
    SELECT 1 FROM sessions WHERE agent_id = (SELECT agent_id FROM commands WHERE id = ${due.command_id}) FOR SHARE`.execute(
    tx,
  );
}

/** Whether the look still holds: since then it may have been claimed, its agent may be back, another attempt may run. */
async function isStillDue(tx: Tx, due: Due, blames: Blames): Promise<boolean> {
  const { rows } = await sql`
    SELECT 1 FROM command_states AS s JOIN commands AS c ON c.id = s.command_id
    WHERE s.command_id = ${due.command_id} AND ${
      due.why === "due" ? retryIsDue : sql<boolean>`${whyTimeIsOver(blames)} = ${due.why}`
    }`.execute(tx);
  return rows.length > 0;
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
      .select(["command_id", "deployment_id", "attempt"])
      .where("agent_id", "=", agentId)
      .where("bound_epoch", "=", epoch)
      .where("state", "=", "ASSIGNED")
      .where("assigned_at", "<=", sql<Date>`now() - make_interval(secs => ${closeWithoutReceiptAfterMs / 1000})`)
      .execute();
    await lockDeployments(
      work.tx,
      rows.map((row) => row.deployment_id),
    );
    const attemptOf = new Map(rows.map((row) => [row.command_id, row.attempt]));
    const set = changeSet();
    for (const command of await lockCommands(work.tx, { ids: rows.map((row) => row.command_id) })) {
      // E3: it may be of the agent's next session by now, or another attempt.
      if (command.boundEpoch !== epoch || command.attempt !== attemptOf.get(command.id)) continue;
      apply(ports, work, command, { kind: "no-receipt" }, set);
    }
    await finish(ports, work, set);
  });
}
