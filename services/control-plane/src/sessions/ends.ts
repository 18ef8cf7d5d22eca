/**
 * Ends sessions, in the database, in sets: a network that fails, or a replica
 * that goes, ends those of a whole fleet at once. One that ends alone waits for
 * nobody (platform/batches.ts).
 *
 * E2: an end burns neither an attempt nor a retry: it only unbinds.
 * G2: a set waits for nobody's row; a session whose row is held by somebody is
 *     ended by itself, beside the sets.
 */
import { isProblem, problem } from "@bowline/kernel";
import { type RawBuilder, sql, type SqlBool } from "kysely";
import { type EnginePorts, sessionsEnded } from "../commands/index.ts";
import { createBatcher } from "../platform/batches.ts";
import { isDatabaseAway } from "../platform/problems.ts";
import { transact, type Work } from "../platform/transactions.ts";
import type { EndReason } from "./live.ts";
import { noteAgents } from "./open.ts";

export interface Ending {
  agentId: string;
  epoch: number;
  reason: EndReason;
  /** Only if the row still names that replica, since that poll: a poll session moves, and comes back. */
  held?: { by: string; since: number };
}

export interface Ends {
  /** Ends a session if it is still the agent's, and unbinds what was bound to it. */
  end(ending: Ending): Promise<void>;
}

/** As many as a replica holds connections (platform/port-limits.ts): each ends once. */
const maxWaiting = 20_000;
/** Sessions that are ended in one transaction. */
const together = 100;

export function createEnds(engine: () => EnginePorts): Ends {
  const sets = createBatcher<Ending, "done" | "busy">(
    async (endings) => {
      const busy = await endSet(engine(), endings, { waits: false });
      return endings.map(({ agentId }) => (busy.has(agentId) ? "busy" : "done"));
    },
    {
      maxWaiting,
      overloaded: () => problem("OVERLOADED", "More sessions end than this replica takes."),
      everybodys: (error) => isDatabaseAway(error) || isProblem(error, "COMMIT_UNKNOWN"),
    },
  );
  return {
    async end(ending) {
      if ((await sets.add(ending)) === "busy") await endSet(engine(), [ending], { waits: true }); // G2
    },
  };
}

/** Ends many. `only`: those of whose row that holds as well, when it is ended. */
export async function endSessions(
  ports: EnginePorts,
  endings: readonly Ending[],
  only?: RawBuilder<SqlBool>,
): Promise<void> {
  for (let from = 0; from < endings.length; from += together)
    await endSet(ports, endings.slice(from, from + together), { waits: true, only });
}

/** The agents whose rows are held by somebody, where it does not wait. */
async function endSet(
  ports: EnginePorts,
  endings: readonly Ending[],
  { waits, only = sql<SqlBool>`true` }: { waits: boolean; only?: RawBuilder<SqlBool> | undefined },
): Promise<Set<string>> {
  return transact(ports.db, async (work) => {
    const { mine, busy } = await lock(work, endings, waits);
    if (mine.length === 0) return busy;
    const { rows } = await sql<{ agentId: string; epoch: number; clusterId: string }>`
      UPDATE sessions SET state = 'ENDED', ended_at = now(), end_reason = e.reason
      FROM unnest(${mine.map(({ agentId }) => agentId)}::text[], ${mine.map(({ epoch }) => epoch)}::int[],
        ${mine.map(({ reason }) => reason)}::text[], ${mine.map(({ held }) => held?.by ?? null)}::text[],
        ${mine.map(({ held }) => held?.since ?? null)}::int[]) AS e (agent_id, epoch, reason, held_by, since)
      JOIN agents AS a ON a.id = e.agent_id
      WHERE sessions.agent_id = e.agent_id AND sessions.epoch = e.epoch AND sessions.state <> 'ENDED'
        AND (e.held_by IS NULL OR sessions.replica_id = e.held_by AND sessions.poll_number = e.since) AND ${only}
      RETURNING sessions.agent_id AS "agentId", sessions.epoch, a.cluster_id AS "clusterId"`.execute(work.tx);
    await sessionsEnded(ports, work, rows);
    await noteAgents(ports, work, rows);
    return busy;
  });
}

/** Locks those that are open, in order (T2). */
async function lock(
  work: Work,
  endings: readonly Ending[],
  waits: boolean,
): Promise<{ mine: Ending[]; busy: Set<string> }> {
  const { rows } = await sql<{ agent_id: string; held: boolean }>`
    WITH held AS (
      SELECT agent_id FROM sessions WHERE agent_id = ANY(${endings.map(({ agentId }) => agentId)}::text[])
        AND state <> 'ENDED' ORDER BY agent_id FOR UPDATE ${waits ? sql`` : sql`SKIP LOCKED`})
    SELECT s.agent_id, held.agent_id IS NOT NULL AS held FROM sessions AS s LEFT JOIN held ON held.agent_id = s.agent_id
    WHERE s.agent_id = ANY(${endings.map(({ agentId }) => agentId)}::text[]) AND s.state <> 'ENDED'`.execute(work.tx);
  const held = new Map(rows.map((row) => [row.agent_id, row.held]));
  return {
    mine: endings.filter(({ agentId }) => held.get(agentId) === true),
    busy: new Set(waits ? [] : rows.flatMap((row) => (row.held ? [] : [row.agent_id]))),
  };
}
