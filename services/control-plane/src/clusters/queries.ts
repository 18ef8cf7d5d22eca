/** Clusters and grants in SQL. */
import type { Cluster, ClusterPolicy } from "@bowline/contract/clusters";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { type Principal, seesAll } from "../platform/context.ts";
import { type Order, orderOf } from "../platform/orders.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db, Tx } from "../platform/transactions.ts";
import { type ClusterRow, policyJson, policyOf } from "./model.ts";

/** Every organisation. */
export const everyone = "*";

function select(db: Db | Tx, principal: Principal) {
  let query = db.selectFrom("clusters as c");
  if (!seesAll(principal)) query = query.where(granted(principal.organisationId));
  return query;
}

function granted(organisationId: string) {
  return sql<boolean>`EXISTS (
    SELECT 1 FROM cluster_grants AS g WHERE g.cluster_id = c.id AND g.organisation_id IN (${organisationId}, ${everyone}))`;
}

const grants = sql<string[]>`coalesce(
  (SELECT jsonb_agg(g.organisation_id ORDER BY g.organisation_id) FROM cluster_grants AS g WHERE g.cluster_id = c.id),
  '[]')`.as("grants");

/** A cluster by id or name, as far as the principal may know of it. Throws NOT_FOUND. */
export async function getCluster(db: Db | Tx, principal: Principal, idOrName: string): Promise<ClusterRow> {
  const row = await select(db, principal)
    .selectAll("c")
    .select(grants)
    .where((where) => where.or([where("c.id", "=", idOrName), where("c.name", "=", idOrName)]))
    .executeTakeFirst();
  if (row === undefined) throw problem("NOT_FOUND", `There is no cluster ${idOrName}.`);
  return row;
}

/** What its operator allows. Throws NOT_FOUND. */
export async function clusterPolicy(db: Db | Tx, principal: Principal, idOrName: string): Promise<ClusterPolicy> {
  return policyOf((await getCluster(db, principal, idOrName)).policy);
}

/**
 * Locks a cluster's row by id or name: `update` against everybody else, `share`
 * against those. Undefined where there is none.
 */
export async function lockCluster(tx: Tx, idOrName: string, mode: "update" | "share"): Promise<ClusterRow | undefined> {
  const query = tx
    .selectFrom("clusters as c")
    .selectAll("c")
    .where((where) => where.or([where("c.id", "=", idOrName), where("c.name", "=", idOrName)]));
  const row = await (mode === "update" ? query.forUpdate() : query.forShare()).executeTakeFirst();
  if (row === undefined) return undefined;
  // Read after the lock: a grant that was taken back while we waited is not seen by the locking statement.
  const found = await tx.selectFrom("clusters as c").select(grants).where("c.id", "=", row.id).executeTakeFirst();
  return { ...row, grants: found?.grants ?? [] };
}

export interface ClusterList {
  pageSize: number;
  pageToken: string;
  runtime: string;
  orderBy: string;
}

export async function listClusters(db: Db, principal: Principal, list: ClusterList) {
  const size = pageSize(list.pageSize);
  const order = orderOf(list.orderBy, ["name", "created_at"]);
  const token = `clusters ${order.field} ${order.descending}`;
  const [after] = pageKey(token, list.pageToken, 1) ?? [];
  // Ids sort by the millisecond of their making, so they stand for created_at.
  const column = order.field === "name" ? "c.name" : "c.id";
  let query = select(db, principal).selectAll("c").select(grants);
  if (list.runtime !== "") query = query.where("c.runtime", "=", list.runtime);
  if (after !== undefined) query = query.where(column, order.descending ? "<" : ">", after);
  const rows: ClusterRow[] = await query
    .orderBy(column, direction(order))
    .limit(size + 1)
    .execute();
  return cutPage(rows, size, token, (row) => [order.field === "name" ? row.name : row.id]);
}

function direction(order: Order<string>): "asc" | "desc" {
  return order.descending ? "desc" : "asc";
}

export async function countClusters(db: Db, principal: Principal, runtime: string): Promise<number> {
  let query = select(db, principal).select(sql<number>`count(*)::int`.as("count"));
  if (runtime !== "") query = query.where("c.runtime", "=", runtime);
  return (await query.executeTakeFirstOrThrow()).count;
}

/** The id of a cluster by id or name. Throws NOT_FOUND. */
export async function findClusterId(db: Db | Tx, principal: Principal, idOrName: string): Promise<string> {
  return (await getCluster(db, principal, idOrName)).id;
}

/** Ids of the clusters that the principal may know of; undefined: all. */
export async function visibleClusterIds(db: Db | Tx, principal: Principal): Promise<string[] | undefined> {
  if (seesAll(principal)) return undefined;
  return (await select(db, principal).select("c.id").execute()).map((row) => row.id);
}

/** Two moves of the default at once follow each other. Any number that nobody else uses for advisory locks. */
const defaultLock = 7_310_004;

/** Makes room for another default. The caller sets its own flag afterwards. */
export async function moveDefault(tx: Tx, toClusterId: string): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock(${defaultLock})`.execute(tx);
  await tx
    .updateTable("clusters")
    .set({ is_default: false, version: sql`version + 1`, updated_at: sql`now()` })
    .where("is_default", "=", true)
    .where("id", "<>", toClusterId)
    .execute();
}

/** The columns that come from the API. */
export function columnsOf(cluster: Cluster) {
  return {
    name: cluster.name,
    display_name: cluster.displayName,
    region: cluster.region,
    cloud_provider: cluster.cloudProvider,
    labels: JSON.stringify(cluster.labels),
    capabilities: JSON.stringify(cluster.capabilities),
    is_default: cluster.isDefault,
    is_active: cluster.isActive ?? true,
    policy: policyJson(cluster.policy),
  };
}
