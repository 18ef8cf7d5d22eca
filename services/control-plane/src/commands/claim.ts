/**
 * Claims: READY commands become ASSIGNED to the sessions that this replica
 * holds. One statement for all of its sessions.
 *
 * E1: the session's row, locked FOR SHARE, has to be SERVING at that epoch.
 * E2: the only place where an attempt grows.
 */
import { sql } from "kysely";
import type { Work } from "../platform/transactions.ts";
import { type Tell, telling, tellingAnyway } from "./apart.ts";
import type { ChangedCommand, Claimant, EnginePorts, PushedCommand } from "./ports.ts";
import { lockCommands } from "./store.ts";

/** After a restore nothing is pushed until an operator confirms it (installation/restored.ts). */
export const dispatchIsHeld = sql<boolean>`EXISTS (SELECT 1 FROM installation WHERE dispatch_held_at IS NOT NULL)`;

interface ClaimHow {
  tell?: Tell;
  freeOnly?: boolean;
  /** Commands whose event the caller has noted in this transaction. */
  noted?: ReadonlySet<string>;
}

/** What is told of a claim beside what is pushed. */
type Claimed = PushedCommand & { organisationId: string; clusterId: string; ownerKind: string };

/**
 * Claims what fits, most urgent first, then oldest, returns it in that order, and adds 1 to each attempt
 * (E2). A session that isn't SERVING at that epoch gets nothing: its row decides,
 * not the clock (E1). What another claim holds is skipped. Revoked agents, and those that await a decision, get
 * nothing; nobody does while dispatch is held. Throws what `tell` throws; by default it tells the owners' slices.
 * `freeOnly`: sessions whose rows somebody else holds are left out, for callers that hold what sessions come before (T2).
 */
export async function claim(
  ports: EnginePorts,
  work: Work,
  claimants: readonly Claimant[],
  { tell = telling(ports, undefined), freeOnly = false, noted }: ClaimHow = {},
): Promise<PushedCommand[]> {
  if (claimants.length === 0) return [];
  const { rows } = await sql<Claimed>`
    WITH open AS MATERIALIZED (
      SELECT s.agent_id, s.epoch, want.room, want.reducing
      FROM unnest(${claimants.map((c) => c.agentId)}::text[], ${claimants.map((c) => c.epoch)}::int[],
        ${claimants.map((c) => c.window)}::int[], ${claimants.map((c) => c.onlyReducing ?? false)}::bool[])
        AS want (agent_id, epoch, room, reducing)
      JOIN sessions AS s ON s.agent_id = want.agent_id AND s.epoch = want.epoch AND s.state = 'SERVING'
      JOIN agents AS a ON a.id = s.agent_id AND a.state = 'ENROLLED'
      WHERE NOT ${dispatchIsHeld}
      ORDER BY s.agent_id
      FOR SHARE OF s ${freeOnly ? sql`SKIP LOCKED` : sql``}
    ), busy AS MATERIALIZED (
      SELECT open.agent_id, open.epoch, open.room, open.reducing, (
        SELECT count(*) FROM command_states AS f
        WHERE f.agent_id = open.agent_id AND f.state IN ('ASSIGNED', 'RUNNING', 'CANCELLING')) AS flying
      FROM open
    ), picked AS MATERIALIZED (
      SELECT fit.command_id, busy.epoch
      FROM busy CROSS JOIN LATERAL (
        SELECT r.command_id FROM command_states AS r
        WHERE r.agent_id = busy.agent_id AND r.state = 'READY' AND (r.reduces OR NOT busy.reducing AND busy.flying < busy.room)
        ORDER BY r.priority, r.sequence
        LIMIT greatest(0, CASE WHEN busy.flying < busy.room AND NOT busy.reducing THEN 0 ELSE 1 END + busy.room - busy.flying)
        FOR UPDATE SKIP LOCKED
      ) AS fit
    ), claimed AS (
      UPDATE command_states AS s
      SET state = 'ASSIGNED', attempt = s.attempt + 1, bound_epoch = picked.epoch, unbound_at = NULL,
          cancel_reason = NULL, assigned_at = now(), received_at = NULL, updated_at = now()
      FROM picked, commands AS c
      WHERE s.command_id = picked.command_id AND c.id = s.command_id
      RETURNING s.command_id AS "commandId", s.agent_id AS "agentId", picked.epoch, s.deployment_id AS "deploymentId",
        c.generation, c.digest, s.attempt, c.product_publish_id AS "productPublishId", c.run_timeout_ms AS "runTimeoutMs",
        c.trace_parent AS "traceParent", s.reduces, c.organisation_id AS "organisationId", c.cluster_id AS "clusterId",
        c.owner_kind AS "ownerKind",
        CASE WHEN s.attempt = 1 THEN extract(epoch FROM clock_timestamp() - c.created_at)::float8 END AS "waitedSeconds",
        s.priority, s.sequence
    )
    SELECT "commandId", "agentId", epoch, "deploymentId", generation, digest, attempt, "productPublishId", "runTimeoutMs",
      "traceParent", reduces, "organisationId", "clusterId", "ownerKind", "waitedSeconds"
    FROM claimed ORDER BY priority, sequence`.execute(work.tx);
  if (rows.length === 0) return [];
  const unnoted = rows.filter(({ commandId }) => noted?.has(commandId) !== true);
  await ports.events.note(
    work,
    unnoted.map(({ commandId: subjectId, organisationId, clusterId }) => ({
      ...{ topic: "command" as const, subjectId, organisationId, clusterId },
    })),
  );
  await tell(work, await changesOf(ports, work, rows));
  return rows;
}

/** Of those that have somebody to be told. */
async function changesOf(ports: EnginePorts, work: Work, claimed: readonly Claimed[]): Promise<ChangedCommand[]> {
  const owned = claimed.filter(({ ownerKind }) => ports.owners.has(ownerKind));
  const commands = await lockCommands(work.tx, { ids: owned.map((row) => row.commandId) });
  return commands.map((command) => ({ ...command, from: "READY", reason: "", message: "" }));
}

/**
 * Claims in the transaction that enqueues, where this replica serves the agents: their commands are on their way with
 * its commit, without a second one. Whoever got not all of theirs is woken, as if nothing had been tried. The caller
 * holds deployments.
 */
export function claimAtOnce(ports: EnginePorts, work: Work, ready: readonly { commandId: string; agentId: string }[]) {
  const agentIds = [...new Set(ready.map((command) => command.agentId))];
  const { here } = ports;
  if (here === undefined) {
    work.after(() => ports.signals.wake(agentIds));
    return;
  }
  const noted = new Set(ready.map((command) => command.commandId));
  work.last(async () => {
    const claimed = await here.claim(agentIds, (claimants) =>
      claim(ports, work, claimants, { tell: tellingAnyway(ports), freeOnly: true, noted }),
    );
    const taken = new Set(claimed.map((command) => command.commandId));
    const left = new Set(ready.filter(({ commandId }) => !taken.has(commandId)).map((command) => command.agentId));
    work.after(() => {
      here.push(claimed);
      if (left.size > 0) ports.signals.wake([...left]);
    });
  });
}

/** Agents with a session at this replica and a command that may be claimed: the poll, for whatever no wake-up announced. */
export async function agentsWithReady(ports: EnginePorts, replicaId: string): Promise<string[]> {
  const { rows } = await sql<{ agentId: string }>`
    SELECT s.agent_id AS "agentId" FROM sessions AS s
    WHERE s.replica_id = ${replicaId} AND s.state = 'SERVING'
      AND EXISTS (SELECT 1 FROM command_states AS r WHERE r.agent_id = s.agent_id AND r.state = 'READY')`.execute(
    ports.db,
  );
  return rows.map((row) => row.agentId);
}

/** A command that its agent is to end. */
export interface Cancelling {
  agentId: string;
  epoch: number;
  commandId: string;
  attempt: number;
}

/** What the sessions of this replica are to end: of these agents, or of all. */
export async function cancelling(
  ports: EnginePorts,
  replicaId: string,
  agentIds?: readonly string[],
): Promise<Cancelling[]> {
  const { rows } = await sql<Cancelling>`
    SELECT s.agent_id AS "agentId", s.epoch, c.command_id AS "commandId", c.attempt
    FROM sessions AS s JOIN command_states AS c ON c.agent_id = s.agent_id AND c.bound_epoch = s.epoch
    WHERE s.replica_id = ${replicaId} AND s.state = 'SERVING' AND c.state = 'CANCELLING'
      AND (${agentIds === undefined} OR s.agent_id = ANY(${agentIds ?? []}))`.execute(ports.db);
  return rows;
}

/** Which of these agents have something READY. A look without a lock: for rounds that as a rule find nothing. */
export async function withReady(ports: EnginePorts, agentIds: readonly string[]): Promise<Set<string>> {
  const { rows } = await sql<{ agent_id: string }>`
    SELECT a.agent_id FROM unnest(${[...agentIds]}::text[]) AS a (agent_id)
    WHERE EXISTS (SELECT 1 FROM command_states AS s WHERE s.agent_id = a.agent_id AND s.state = 'READY')`.execute(
    ports.db,
  );
  return new Set(rows.map((row) => row.agent_id));
}

/** The commands that one session has in flight without a receipt, to be pushed again. */
export async function unreceipted(
  ports: EnginePorts,
  agentId: string,
  epoch: number,
  commandId?: string,
): Promise<PushedCommand[]> {
  let query = ports.db
    .selectFrom("command_states as s")
    .innerJoin("commands as c", "c.id", "s.command_id")
    .select([
      "s.command_id as commandId",
      "s.agent_id as agentId",
      sql<number>`s.bound_epoch`.as("epoch"),
      "s.deployment_id as deploymentId",
      "c.generation",
      "c.digest",
      "s.attempt",
      "c.product_publish_id as productPublishId",
      "c.run_timeout_ms as runTimeoutMs",
      "s.reduces",
      "c.trace_parent as traceParent",
    ])
    .where("s.agent_id", "=", agentId)
    .where("s.state", "=", "ASSIGNED")
    .where("s.bound_epoch", "=", epoch)
    .where(sql<boolean>`NOT ${dispatchIsHeld}`);
  if (commandId !== undefined) query = query.where("s.command_id", "=", commandId);
  return query.orderBy("s.priority").orderBy("s.sequence").execute();
}
