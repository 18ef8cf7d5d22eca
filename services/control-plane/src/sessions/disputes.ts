/**
 * What an agent has of another history of the database. A restore, or a
 * failover that lost its tail, takes the server back; its agents go on with
 * what they were told since. Guessing who is right would roll something back
 * or run it twice, so an operator decides (`agents/accept.ts`).
 *
 * H1: while an agent awaits a decision nothing is claimed for it, nothing is
 *     reconciled and nothing repaired.
 * H2: an epoch that is behind is no dispute: either answer would be the same.
 *     The server goes on above the agent's.
 */
import type { Sync } from "@bowline/contract/agent";
import { sql } from "kysely";
import { type EnginePorts, lockSessions } from "../commands/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { systemPrincipal } from "../platform/context.ts";
import type { Work } from "../platform/transactions.ts";

/** Why an agent awaits a decision; stored, and shown with the agent. */
export type Decision = "INCARNATION_AHEAD" | "DEPLOYMENTS_DIFFER";

/**
 * Finds what the agent has of another history and no operator has answered
 * yet; puts the agent into AWAITING_DECISION where there is any. True: it awaits
 * one. Undefined: the session is not the agent's any more, and what was said in
 * it counts no more (E1). The caller holds nothing yet: the agent's row comes
 * before the session's, which the caller holds afterwards.
 */
export async function awaitsDecision(
  ports: EnginePorts,
  work: Work,
  { agentId, epoch }: { agentId: string; epoch: number },
  pages: readonly Sync[],
): Promise<boolean | undefined> {
  const agent = await work.tx
    .selectFrom("agents")
    .select("state")
    .where("id", "=", agentId)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if ((await lockSessions(work.tx, [agentId])).get(agentId) !== epoch) return undefined;
  if (agent === undefined || (agent.state !== "ENROLLED" && agent.state !== "AWAITING_DECISION")) return false;
  const found = (await findDisputes(work, [{ agentId, pages }])).get(agentId) ?? 0;
  if (found > 0 && agent.state === "ENROLLED") await enterDecision(ports, work, agentId, "DEPLOYMENTS_DIFFER");
  return found > 0 || agent.state === "AWAITING_DECISION";
}

/** The caller holds the agent's row. */
export async function enterDecision(ports: EnginePorts, work: Work, agentId: string, why: Decision): Promise<void> {
  const { cluster_id: clusterId } = await work.tx
    .updateTable("agents")
    .set({ state: "AWAITING_DECISION", decision: why, version: sql`version + 1`, updated_at: sql`now()` })
    .where("id", "=", agentId)
    .returning("cluster_id")
    .executeTakeFirstOrThrow();
  await audit(
    ports.events,
    work,
    { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } },
    {
      action: "agent.await-decision",
      resourceKind: "agent",
      resourceId: agentId,
      organisationId: "",
      after: { state: "AWAITING_DECISION", decision: why },
      outcome: "AWAITING_DECISION",
    },
  );
  await ports.events.note(work, [{ topic: "agent", subjectId: agentId, clusterId }]);
  await ports.agentChanged?.(work, agentId);
  ports.log.warn({ agentId, why }, "an agent has another history than this database; an operator decides");
}

/** What an agent has told, by its id. */
export interface ToldPages {
  agentId: string;
  pages: readonly Sync[];
}

function toldBy({ agentId, pages }: ToldPages) {
  const running = pages.flatMap((page) => page.deployments).map((one) => ({ ...one, runs: true }));
  const inFlight = new Set(pages.flatMap((page) => page.journal).map((entry) => entry.deploymentId));
  const highest = pages
    .flatMap((page) => page.highest)
    .map((one) => ({ ...one, runs: inFlight.has(one.deploymentId) }));
  return [...running, ...highest].map((one) => ({ ...one, agentId }));
}

/** Writes what differs, forgets what differs no more, and counts what is not settled, by agent; none: 0. */
export async function findDisputes(work: Work, agents: readonly ToldPages[]): Promise<Map<string, number>> {
  const told = agents.flatMap(toldBy);
  const agentIds = agents.map(({ agentId }) => agentId);
  await sql`
    WITH told AS (
      SELECT agent_id, id, generation, digest, bool_or(runs) OVER (PARTITION BY agent_id, id) AS runs FROM unnest(
        ${told.map((one) => one.agentId)}::text[], ${told.map((one) => one.deploymentId)}::text[],
        ${told.map((one) => one.generation)}::int[], ${told.map((one) => one.digest)}::text[],
        ${told.map((one) => one.runs)}::boolean[]) AS t (agent_id, id, generation, digest, runs)
    ), differs AS (
      SELECT DISTINCT ON (told.agent_id, told.id) told.*, CASE
          WHEN d.id IS NULL THEN 'UNKNOWN_DEPLOYMENT'
          WHEN told.generation > d.generation THEN 'GENERATION_AHEAD'
          WHEN g.digest <> told.digest THEN 'DIGEST_DIFFERS' END AS why
      FROM told LEFT JOIN deployments AS d ON d.id = told.id AND d.agent_id = told.agent_id
      LEFT JOIN deployment_generations AS g ON g.deployment_id = d.id AND g.generation = told.generation
      WHERE d.id IS NULL AND told.runs OR told.generation > d.generation OR g.digest <> told.digest
      ORDER BY told.agent_id, told.id, told.generation DESC
    ), gone AS (
      DELETE FROM agent_disputes AS known WHERE agent_id = ANY(${agentIds}::text[]) AND NOT EXISTS (
        SELECT 1 FROM differs WHERE differs.agent_id = known.agent_id AND differs.id = known.deployment_id)
    )
    INSERT INTO agent_disputes AS known (agent_id, deployment_id, why, agent_generation, agent_digest, runs)
    SELECT agent_id, id, why, generation, digest, runs FROM differs ORDER BY agent_id, id
    ON CONFLICT (agent_id, deployment_id) DO UPDATE SET
      why = excluded.why, agent_generation = excluded.agent_generation, agent_digest = excluded.agent_digest,
      runs = excluded.runs, settled_at = CASE
        WHEN known.agent_generation = excluded.agent_generation AND known.agent_digest = excluded.agent_digest
        THEN known.settled_at END`.execute(work.tx);
  const open = await work.tx
    .selectFrom("agent_disputes")
    .select(["agent_id", sql<number>`count(*)::int`.as("count")])
    .where("agent_id", "=", sql<string>`ANY(${agentIds}::text[])`)
    .where("settled_at", "is", null)
    .groupBy("agent_id")
    .execute();
  return new Map(open.map((row) => [row.agent_id, row.count]));
}
