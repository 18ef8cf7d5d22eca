/** Tunnels as rows: where each is waited for, and how many there are. */
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { maxTunnelsOfAgent } from "@bowline/session";
import type { Db } from "../platform/transactions.ts";

/** Of one person or program, over all replicas: what somebody follows on a few screens, and less than two agents hold. */
const maxTunnelsOfPrincipal = 48;

export interface TunnelWish {
  agentId: string;
  /** `logs`, `exec` or `foreign-containers`. */
  purpose: string;
  principalId: string;
}

/** Keeps a wish where there is room for it. Throws TUNNEL_LIMIT. Calls of one moment may pass it by as many as they are. */
export async function addTunnel(db: Db, id: string, wish: TunnelWish, home: { replicaId: string; url: string }) {
  const { agentId, purpose, principalId } = wish;
  const lives = sql<boolean>`replica_id IN (SELECT r.id FROM replicas AS r WHERE r.lease_until > now())`;
  const { rows } = await sql<{ of_agent: number; of_principal: number }>`
    SELECT count(*) FILTER (WHERE agent_id = ${agentId})::int AS of_agent,
      count(*) FILTER (WHERE principal_id = ${principalId})::int AS of_principal
    FROM tunnels WHERE (agent_id = ${agentId} OR principal_id = ${principalId}) AND ${lives}`.execute(db);
  const { of_agent: ofAgent = 0, of_principal: ofPrincipal = 0 } = rows[0] ?? {};
  if (ofAgent >= maxTunnelsOfAgent)
    throw problem("TUNNEL_LIMIT", `${ofAgent} tunnels are open to the agent, and more may not be; end one.`);
  if (ofPrincipal >= maxTunnelsOfPrincipal)
    throw problem("TUNNEL_LIMIT", `${ofPrincipal} tunnels are yours, and more may not be; end one.`);
  await db
    .insertInto("tunnels")
    .values({
      ...{ id, agent_id: agentId, purpose, principal_id: principalId },
      ...{ replica_id: home.replicaId, home_url: home.url },
    })
    .execute();
}

export async function removeTunnel(db: Db, id: string): Promise<void> {
  await db.deleteFrom("tunnels").where("id", "=", id).execute();
}

/** Removes what replicas that are gone have left, but none of `replicaId`. */
export async function removeLeft(db: Db, replicaId: string): Promise<void> {
  await sql`DELETE FROM tunnels WHERE replica_id <> ${replicaId}
    AND replica_id NOT IN (SELECT id FROM replicas WHERE lease_until > now())`.execute(db);
}

export async function readTunnels(db: Db, ids: readonly string[]) {
  if (ids.length === 0) return [];
  return db.selectFrom("tunnels").selectAll().where("id", "in", ids).execute();
}

/** An agent whose session has just ended dials again within seconds. */
const returningMs = 10_000;

/** The replica that serves an agent's session now; `returning`: it dials again, or is greeted (W4); undefined: it is away. */
export async function holderOf(db: Db, agentId: string): Promise<{ replicaId: string } | "returning" | undefined> {
  const row = await db
    .selectFrom("sessions")
    .select(["replica_id", "state"])
    .select(sql<boolean>`ended_at > now() - make_interval(secs => ${returningMs / 1000})`.as("recent"))
    .where("agent_id", "=", agentId)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  if (row.state === "SERVING") return { replicaId: row.replica_id };
  if (row.state !== "ENDED") return "returning";
  return row.recent ? "returning" : undefined;
}

/** Whether the session of an access token still stands. */
export async function stands(db: Db, claims: { agentId: string; sessionId: string; epoch: number }): Promise<boolean> {
  const row = await db
    .selectFrom("sessions as s")
    .innerJoin("agents as a", "a.id", "s.agent_id")
    .select("s.id")
    .where("s.agent_id", "=", claims.agentId)
    .where("s.id", "=", claims.sessionId)
    .where("s.epoch", "=", claims.epoch)
    .where("s.state", "<>", "ENDED")
    .where("a.state", "=", "ENROLLED")
    .executeTakeFirst();
  return row !== undefined;
}

/** Those of the agents that may have tunnels. */
export async function enrolled(db: Db, agentIds: readonly string[]): Promise<Set<string>> {
  if (agentIds.length === 0) return new Set();
  const rows = await db
    .selectFrom("agents")
    .select("id")
    .where("id", "in", agentIds)
    .where("state", "=", "ENROLLED")
    .execute();
  return new Set(rows.map((row) => row.id));
}
