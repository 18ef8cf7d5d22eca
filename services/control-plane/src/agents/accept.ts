/** The way out of AWAITING_DECISION: an operator says whose history goes on. */
import type { Agent, Dispute } from "@bowline/contract/agents";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Caller } from "../platform/context.ts";
import type { Db, Tx } from "../platform/transactions.ts";
import type { AgentPorts } from "./model.ts";
import { settleAgent } from "./settle.ts";

export type Side = "AGENT" | "SERVER";

/** What one answer shows; the rest is settled with it all the same. */
const maxShown = 1000;

/** What an agent has of another history and nobody has answered yet, by deployment. */
export async function disputesOf(
  db: Db | Tx,
  agentId: string,
  limit = maxShown,
): Promise<Omit<Dispute, "$typeName">[]> {
  const rows = await db
    .selectFrom("agent_disputes as x")
    .leftJoin("deployments as d", (join) =>
      join.onRef("d.id", "=", "x.deployment_id").onRef("d.agent_id", "=", "x.agent_id"),
    )
    .leftJoin("deployment_generations as g", (join) =>
      join.onRef("g.deployment_id", "=", "d.id").onRef("g.generation", "=", "d.generation"),
    )
    .selectAll("x")
    .select(["d.generation", "d.kind", "d.owner_id", "g.digest"])
    .where("x.agent_id", "=", agentId)
    .where("x.settled_at", "is", null)
    .orderBy("x.deployment_id")
    .limit(limit)
    .execute();
  return rows.map((row) => ({
    deploymentId: row.deployment_id,
    why: row.why,
    agentGeneration: row.agent_generation,
    agentDigest: row.agent_digest,
    serverGeneration: row.generation ?? 0,
    serverDigest: row.digest ?? "",
    runs: row.runs,
    kind: row.kind ?? "",
    ownerId: row.owner_id ?? "",
  }));
}

/** Throws NOT_FOUND, AGENT_REVOKED, AGENT_RETIRED, AGENT_CONFLICT. Accepting twice is no error. */
export function acceptAgent(ports: AgentPorts, caller: Caller, request: { id: string; side: Side }): Promise<Agent> {
  return settleAgent(ports, caller, request.id, "agent.accept", async (work, { id, state }) => {
    if (state === "CONFLICT") throw problem("AGENT_CONFLICT", "Two claim to be this agent; release it first.");
    // Its next session tells anew what it has: one that goes on would not be reconciled.
    const session = await work.tx
      .updateTable("sessions")
      .set({ state: "ENDED", ended_at: sql<Date>`now()`, end_reason: "DECIDED" })
      .where("agent_id", "=", id)
      .where("state", "<>", "ENDED")
      .returning("epoch")
      .executeTakeFirst();
    if (session !== undefined) await ports.sessionEnded(work, id, session.epoch);
    const disputes = await disputesOf(work.tx, id, Number.MAX_SAFE_INTEGER);
    const known = disputes.filter((dispute) => dispute.serverGeneration > 0);
    await ports.settleForks(work, known, { side: request.side, createdBy: caller.principal.id });
    await work.tx
      .updateTable("agent_disputes")
      .set({ settled_at: sql<Date>`now()` })
      .where("agent_id", "=", id)
      .where("settled_at", "is", null)
      .execute();
    await work.tx
      .updateTable("agents")
      .set({ state: "ENROLLED", decision: "", version: sql`version + 1`, updated_at: sql`now()` })
      .where("id", "=", id)
      .execute();
    work.after(() => ports.closeSession(id, "DECIDED"));
    return { before: { disputes: disputes.slice(0, maxShown) }, after: { side: request.side } };
  });
}
