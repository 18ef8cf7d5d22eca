/** Agents in SQL. */
import { problem } from "@bowline/kernel";
import { type SqlBool, sql } from "kysely";
import { visibleClusterIds } from "../clusters/index.ts";
import type { Principal } from "../platform/context.ts";
import { orderOf } from "../platform/orders.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db, Tx } from "../platform/transactions.ts";
import { type AgentRow, type AgentState, agentStates } from "./model.ts";

function select(db: Db | Tx) {
  return db
    .selectFrom("agents as a")
    .innerJoin("clusters as c", "c.id", "a.cluster_id")
    .leftJoin("sessions as s", "s.agent_id", "a.id")
    .leftJoin("agent_seen as seen", "seen.agent_id", "a.id");
}

function shown(query: ReturnType<typeof select>) {
  return query
    .selectAll("a")
    .select([
      "c.name as cluster",
      "s.state as session_state",
      "s.epoch",
      "s.replica_id",
      "s.remote_address",
      "s.opened_at",
      "s.ended_at",
      "s.end_reason",
      "s.transport",
      "seen.last_seen_at",
      "seen.running",
      "seen.load_millis",
      sql<Date>`clock_timestamp()`.as("now"),
    ]);
}

/** Agents in clusters that the principal may know of. */
async function visible(db: Db | Tx, principal: Principal) {
  const clusterIds = await visibleClusterIds(db, principal);
  const query = select(db);
  if (clusterIds === undefined) return query;
  return query.where(sql<SqlBool>`a.cluster_id = ANY(${clusterIds})`);
}

/** Undefined where there is none that the principal may know of. */
export async function findAgent(db: Db | Tx, principal: Principal, id: string): Promise<AgentRow | undefined> {
  return shown(await visible(db, principal))
    .where("a.id", "=", id)
    .executeTakeFirst();
}

/** By id, or by a name that only one agent has; one that is gone counts only where no other has it. Throws NOT_FOUND, AMBIGUOUS_NAME. */
export async function getAgent(db: Db | Tx, principal: Principal, idOrName: string): Promise<AgentRow> {
  const rows: AgentRow[] = await shown(await visible(db, principal))
    .where((where) => where.or([where("a.id", "=", idOrName), where("a.name", "=", idOrName)]))
    .orderBy("a.id", "desc")
    .execute();
  const live = rows.filter((row) => !agentStates[row.state as AgentState].gone);
  const candidates = live.length > 0 ? live : rows;
  const [found] = candidates;
  if (found === undefined) throw problem("NOT_FOUND", `There is no agent ${idOrName}.`);
  if (candidates.length > 1) {
    const ids = candidates.map((row) => `${row.id} in ${row.cluster}`).join(", ");
    throw problem("AMBIGUOUS_NAME", `Several agents are named ${idOrName}: ${ids}. Use the id.`);
  }
  return found;
}

/** Locks an agent against everybody who changes it; new rows may refer to it meanwhile. Throws NOT_FOUND. */
export async function lockAgent(tx: Tx, principal: Principal, id: string): Promise<AgentRow> {
  await tx.selectFrom("agents").select("id").where("id", "=", id).forNoKeyUpdate().executeTakeFirst();
  const row = await findAgent(tx, principal, id);
  if (row === undefined) throw problem("NOT_FOUND", `There is no agent ${id}.`);
  return row;
}

export interface AgentList {
  pageSize: number;
  pageToken: string;
  /** Resolved; undefined: of all. */
  clusterId: string | undefined;
  orderBy: string;
}

/** By cluster and name, or by creation: ids sort by the millisecond of their making. */
export async function listAgents(db: Db, principal: Principal, list: AgentList) {
  const size = pageSize(list.pageSize);
  const order = orderOf(list.orderBy, ["name", "created_at"]);
  const token = `agents ${order.field} ${order.descending}`;
  const byName = order.field === "name";
  const after = pageKey(token, list.pageToken, byName ? 3 : 1);
  const sign = order.descending ? sql`<` : sql`>`;
  const direction = order.descending ? "desc" : "asc";
  let query = shown(await visible(db, principal));
  if (list.clusterId !== undefined) query = query.where("a.cluster_id", "=", list.clusterId);
  if (after !== undefined) {
    query = byName
      ? query.where(sql<SqlBool>`(c.name, a.name, a.id) ${sign} (${after[0]}, ${after[1]}, ${after[2]})`)
      : query.where(sql<SqlBool>`a.id ${sign} ${after[0]}`);
  }
  if (byName) query = query.orderBy("c.name", direction).orderBy("a.name", direction);
  const rows: AgentRow[] = await query
    .orderBy("a.id", direction)
    .limit(size + 1)
    .execute();
  return cutPage(rows, size, token, (row) => (byName ? [row.cluster, row.name, row.id] : [row.id]));
}

export async function countAgents(db: Db, principal: Principal, clusterId: string | undefined): Promise<number> {
  let query = (await visible(db, principal)).select(sql<number>`count(*)::int`.as("count"));
  if (clusterId !== undefined) query = query.where("a.cluster_id", "=", clusterId);
  return (await query.executeTakeFirstOrThrow()).count;
}

/** Whether a cluster, which may be gone, is one that the principal may know of. */
export async function mayKnowCluster(db: Db, principal: Principal, clusterId: string): Promise<boolean> {
  return (await visibleClusterIds(db, principal))?.includes(clusterId) ?? true;
}
