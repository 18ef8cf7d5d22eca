/** Reads of publishes for people: the row, its targets, and what holds beside the state. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  type ListProductPublishesRequest,
  type ProductPublish,
  ProductPublish_State,
  ProductPublishSchema,
  type PublishTarget,
  PublishTargetSchema,
} from "@bowline/contract/products";
import { sql } from "kysely";
import { type Principal, seesAll } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db } from "../platform/transactions.ts";
import { accountNames } from "../identity/index.ts";
import { listenersOf } from "./catalogue/index.ts";
import { isTakenBack } from "./publish-rows.ts";
import type { PublishState } from "./publish-states.ts";

type Filter = Partial<Pick<ListProductPublishesRequest, "productId" | "clusterId" | "states">> & {
  ids?: readonly string[];
  inForce?: boolean;
};

function select(db: Db, principal: Principal, filter: Filter) {
  let query = db
    .selectFrom("product_publishes as p")
    .innerJoin("products as o", "o.id", "p.product_id")
    .innerJoin("product_revisions as v", "v.id", "p.revision_id")
    .innerJoin("clusters as c", "c.id", "p.cluster_id")
    .innerJoin("gateways as g", "g.id", "p.gateway_id");
  if (!seesAll(principal)) query = query.where("p.organisation_id", "=", principal.organisationId);
  const { productId, clusterId } = filter;
  if (productId)
    query = query.where((where) => where.or([where("o.id", "=", productId), where("o.name", "=", productId)]));
  if (clusterId)
    query = query.where((where) => where.or([where("c.id", "=", clusterId), where("c.name", "=", clusterId)]));
  if (filter.states?.length) query = query.where("p.state", "in", filter.states.map(stateName));
  if (filter.ids !== undefined) query = query.where("p.id", "in", [...filter.ids]);
  if (filter.inForce) query = query.where("p.state", "not in", ["SUPERSEDED", "UNPUBLISHED"]);
  return query;
}

// Named, and not `*`: what returns `*` is not kept prepared (pool.ts), and watches read these at each change.
const publishColumns = [
  "p.id",
  "p.organisation_id",
  "p.product_id",
  "p.revision_id",
  "p.cluster_id",
  "p.gateway_id",
  "p.api_services",
  "p.state",
  "p.reason",
  "p.message",
  "p.rollback_of",
  "p.max_parallel",
  "p.auto_revert",
  "p.to_come",
  "p.superseded_by",
  "p.created_by",
  "p.version",
  "p.live_at",
  "p.created_at",
  "p.updated_at",
] as const;
const targetColumns = [
  "t.product_publish_id",
  "t.agent_id",
  "t.deployment_id",
  "t.generation",
  "t.command_id",
  "t.state",
  "t.reason",
  "t.message",
  "t.updated_at",
] as const;

function columns(query: ReturnType<typeof select>) {
  return query
    .select(publishColumns)
    .select([
      "o.name as product",
      "v.number as revision",
      "c.name as cluster",
      "g.name as gateway",
      "g.listeners",
      "g.gateway_class",
      isTakenBack.as("taken_back"),
    ]);
}

type Row = Awaited<ReturnType<ReturnType<typeof columns>["execute"]>>[number];

export async function readPublishes(db: Db, principal: Principal, filter: Filter): Promise<ProductPublish[]> {
  return atOneMoment(db, async (tx) =>
    withTargets(
      tx,
      await columns(select(tx, principal, filter))
        .orderBy("p.created_at")
        .orderBy("p.id")
        .limit(10_000)
        .execute(),
    ),
  );
}

/** Else a commit between the two statements shows a target LIVE beside a publish that is not. */
function atOneMoment<T>(db: Db, read: (tx: Db) => Promise<T>): Promise<T> {
  return db.transaction().setIsolationLevel("repeatable read").setAccessMode("read only").execute(read);
}

export async function listPublishes(db: Db, principal: Principal, request: ListProductPublishesRequest) {
  const size = pageSize(request.pageSize);
  const page = await atOneMoment(db, async (tx) => {
    const after = pageKey("publishes", request.pageToken, 1);
    let query = columns(select(tx, principal, request));
    if (after !== undefined) query = query.where("p.id", "<", after[0] ?? "");
    const rows = await query
      .orderBy("p.id", "desc")
      .limit(size + 1)
      .execute();
    const { rows: shown, nextPageToken } = cutPage(rows, size, "publishes", (row) => [row.id]);
    return { productPublishes: await withTargets(tx, shown), nextPageToken };
  });
  const total = request.returnTotalSize
    ? (
        await select(db, principal, request)
          .select(sql<number>`count(*)::int`.as("count"))
          .executeTakeFirst()
      )?.count
    : undefined;
  return { ...page, totalSize: total };
}

async function withTargets(db: Db, rows: readonly Row[]): Promise<ProductPublish[]> {
  if (rows.length === 0) return [];
  const targets = await readTargets(
    db,
    rows.map((row) => row.id),
  );
  const byPublish = Map.groupBy(targets, (target) => target.product_publish_id);
  const names = await accountNames(
    db,
    rows.map((row) => row.created_by),
  );
  return rows.map((row) =>
    Object.assign(publishOf(row, byPublish.get(row.id) ?? []), { createdByName: names.get(row.created_by) ?? "" }),
  );
}

async function readTargets(db: Db, publishIds: readonly string[]) {
  return db
    .selectFrom("publish_targets as t")
    .innerJoin("agents as a", "a.id", "t.agent_id")
    .leftJoin("sessions as s", "s.agent_id", "t.agent_id")
    .leftJoin("commands as c", "c.id", "t.command_id")
    .leftJoin("command_states as cs", "cs.command_id", "t.command_id")
    .leftJoin("command_progress as cp", (join) =>
      join.onRef("cp.command_id", "=", "t.command_id").onRef("cp.attempt", "=", "cs.attempt"),
    )
    .leftJoin("deployments as d", "d.id", "t.deployment_id")
    .leftJoin("route_attachments as r", "r.deployment_id", "t.deployment_id")
    .leftJoin("deployments as p", "p.id", "r.data_plane_deployment_id")
    .select(targetColumns)
    .select([
      "a.name as agent",
      "a.state as agent_state",
      "s.state as session_state",
      "s.ended_at",
      "cs.reason as command_reason",
      "cs.message as command_message",
      "cs.state as command_state",
      "cp.phase",
      "cp.percent",
      "cp.message as progress_message",
      "d.drifted",
      "d.held_reason",
      "r.serving_revision",
      "r.serving_generation",
      "p.held_reason as data_plane_held",
      sql<Date | null>`c.created_at + make_interval(secs => c.offline_life_ms / 1000.0)`.as("until"),
      sql<{ name: string; address: string; published: number }[]>`coalesce((
        SELECT jsonb_agg(port) FROM instances AS i, jsonb_array_elements(i.ports) AS port
        WHERE i.deployment_id = r.data_plane_deployment_id), '[]')`.as("ports"),
      sql<string | null>`(SELECT x.reason || CASE WHEN x.message = '' THEN '' ELSE ': ' || x.message END
        FROM commands AS y JOIN command_states AS x ON x.command_id = y.id
        WHERE p.held_reason <> '' AND y.deployment_id = p.id ORDER BY y.generation DESC LIMIT 1)`.as("data_plane_word"),
    ])
    .where("t.product_publish_id", "in", [...publishIds])
    .orderBy("a.name")
    .execute();
}

type TargetRow = Awaited<ReturnType<typeof readTargets>>[number];

function publishOf(row: Row, targets: readonly TargetRow[]): ProductPublish {
  const listeners = new Set(listenersOf(row.listeners).map((listener) => listener.name));
  const shown = targets.map((target) => targetOf(target, listeners));
  const waitsForAgent = row.state === "PENDING" && targets.length === 0;
  const away = shown.find((target) => target.reason === "AGENT_OFFLINE");
  const conditions = new Set<string>();
  if (targets.some((target) => target.drifted === true && target.state === "LIVE")) conditions.add("DRIFTED");
  if (targets.some(isAway)) conditions.add("AGENT_OFFLINE");
  // Live, and every agent that served it is retired: nobody serves it.
  if (waitsForAgent || (row.state === "LIVE" && targets.length === 0)) conditions.add("NO_AGENT");
  if (targets.some((target) => !["", "AGENT_COPY"].includes(target.data_plane_held ?? "")))
    conditions.add("DATA_PLANE_FAILED");
  if (row.taken_back) conditions.add("REVERTING");
  // After a restore: the agent serves what another history of the database told it.
  if (targets.some((target) => target.held_reason === "AGENT_COPY")) conditions.add("AGENT_COPY");
  const publish = create(ProductPublishSchema, {
    id: row.id,
    productId: row.product_id,
    product: row.product,
    revisionId: row.revision_id,
    revision: row.revision,
    clusterId: row.cluster_id,
    cluster: row.cluster,
    gatewayId: row.gateway_id,
    gateway: row.gateway,
    apiServices: row.api_services,
    state: ProductPublish_State[row.state as PublishState],
    reason: waitsForAgent ? "NO_AGENT" : row.reason || (row.state === "PENDING" ? (away?.reason ?? "") : ""),
    message: waitsForAgent
      ? "No agent of the cluster can take it yet; it follows when one enrols."
      : row.message || (row.state === "PENDING" ? (away?.message ?? "") : ""),
    targets: shown,
    liveTargets: targets.filter((target) => target.state === "LIVE").length,
    conditions: [...conditions],
    rollbackOf: row.rollback_of,
    supersededBy: row.superseded_by,
    createdBy: row.created_by,
    etag: String(row.version),
    createdAt: timestampFromDate(row.created_at),
    updatedAt: timestampFromDate(row.updated_at),
    organisationId: row.organisation_id,
    rollout: { maxParallel: row.max_parallel, autoRevert: row.auto_revert },
    agentsToCome: row.state === "SUPERSEDED" || row.state.startsWith("UNPUBLISH") ? 0 : row.to_come,
  });
  if (publish.reason === "ROLLING_OUT")
    publish.message = `${publish.liveTargets} of ${targets.length + row.to_come} agents have it; the next one follows.`;
  if (row.live_at !== null) publish.liveAt = timestampFromDate(row.live_at);
  return publish;
}

function isAway(target: TargetRow): boolean {
  return target.session_state === null || target.session_state === "ENDED";
}

function targetOf(row: TargetRow, listeners: ReadonlySet<string>): PublishTarget {
  const waiting = row.state === "PENDING" || row.state === "UNPUBLISHING";
  const inFlight =
    row.command_state === "ASSIGNED" || row.command_state === "RUNNING" || row.command_state === "CANCELLING";
  const offline = waiting && isAway(row);
  return create(PublishTargetSchema, {
    agentId: row.agent_id,
    agent: row.agent,
    deploymentId: row.deployment_id,
    generation: row.generation,
    state: ProductPublish_State[row.state as PublishState],
    commandId: row.command_id,
    reason: offline ? "AGENT_OFFLINE" : row.reason || (row.state === "LIVE" ? "" : (row.command_reason ?? "")),
    message: offline ? offlineMessage(row) : targetMessage(row),
    progressPercent: row.state === "LIVE" ? 100 : inFlight ? (row.percent ?? 0) : 0,
    progressPhase: inFlight ? (row.phase ?? "") : "",
    servingRevision: row.serving_revision ?? 0,
    servingGeneration: row.serving_generation ?? 0,
    urls: row.ports
      .filter((port) => listeners.has(port.name))
      .map((port) => `http://${hostOf(port.address)}:${port.published}`),
    updatedAt: timestampFromDate(row.updated_at),
  });
}

function targetMessage(row: TargetRow): string {
  if (row.state === "LIVE") return "";
  const own = row.message || row.command_message || row.progress_message || "";
  const dataPlane =
    (row.data_plane_held ?? "") === "" ? "" : `the data plane: ${row.data_plane_word ?? row.data_plane_held}`;
  return [own, dataPlane].filter((text) => text !== "").join("; ");
}

function offlineMessage(row: TargetRow): string {
  const since = row.ended_at === null ? "never connected" : `offline since ${row.ended_at.toISOString()}`;
  const until = row.until === null ? "" : ` (until ${row.until.toISOString()})`;
  return `${since}; it follows when the agent returns${row.state === "UNPUBLISHING" ? "" : until}.`;
}

/** How a browser writes an address; a wildcard is reached on loopback from the host itself. */
function hostOf(address: string): string {
  if (address === "" || address === "0.0.0.0" || address === "::") return "127.0.0.1";
  return address.includes(":") ? `[${address}]` : address;
}

function stateName(state: ProductPublish_State): string {
  return Object.entries(ProductPublish_State).find(([, value]) => value === state)?.[0] ?? "";
}
