/**
 * Which agents get a publish, and the deployments there: one data plane per
 * gateway and agent, one routes deployment per product, gateway and agent.
 * detachments.ts is the way back.
 *
 * P1: a deployment keeps its agent for life; an agent that has one keeps
 *     getting what belongs to it, also while it is cordoned or has lost a label
 *     (sticky): nothing old is left to serve beside what is new.
 * P2: the rows of a gateway at an agent change only under their advisory lock;
 *     who relies on them as they are holds it shared.
 */
import type { Database } from "@bowline/db";
import { type Expression, type Insertable, sql } from "kysely";
import { by, type Caller } from "../platform/context.ts";
import { type Db, MovedOn, type Tx, type Work } from "../platform/transactions.ts";
import { converge, type ConvergeWish, type EnginePorts, type Enqueued, type Limits } from "../commands/index.ts";
import { newDeploymentId } from "../deployments/index.ts";
import type { ProductManifest } from "@bowline/contract/products";
import { listenersOf } from "./catalogue/index.ts";
import { dataPlaneSpec, type GatewayTemplate, routesSpec } from "./compile.ts";

export interface Place {
  clusterId: string;
  gateway: GatewayTemplate & { agentLabels: Record<string, string>; organisationId: string };
  productId: string;
}

/** Whether agent `a` of cluster `c` may get something new of gateway `g`. */
const mayTake = sql<boolean>`(
  a.state = 'ENROLLED' AND NOT a.cordoned AND c.is_active AND NOT c.deleting
  AND (a.reported_labels || a.labels) @> g.agent_labels
  AND a.capabilities ? ('gateway-class/' || g.gateway_class)
  AND (jsonb_array_length(c.capabilities) = 0 OR c.capabilities ? ('gateway-class/' || g.gateway_class)))`;

/** Agents of the cluster that may take the gateway's publishes, and those that have this product there already (P1). */
export async function eligibleAgents(tx: Tx, place: Place): Promise<{ id: string; online: boolean }[]> {
  const { rows } = await sql<{ id: string; online: boolean }>`
    SELECT a.id, EXISTS (SELECT 1 FROM sessions AS s WHERE s.agent_id = a.id AND s.state = 'SERVING') AS online
    FROM agents AS a
    JOIN clusters AS c ON c.id = a.cluster_id
    JOIN gateways AS g ON g.id = ${place.gateway.id}
    WHERE a.cluster_id = ${place.clusterId} AND a.state = 'ENROLLED' AND (${mayTake} OR EXISTS (
      SELECT 1 FROM route_attachments AS r WHERE r.product_id = ${place.productId}
        AND r.gateway_id = g.id AND r.agent_id = a.id AND NOT r.removing))
    ORDER BY a.id`.execute(tx);
  return rows;
}

/** Publishes in force that an agent may take now and doesn't have, oldest first. */
export async function unplaced(db: Db, limit: number): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    SELECT p.id FROM product_publishes AS p
    JOIN clusters AS c ON c.id = p.cluster_id
    JOIN gateways AS g ON g.id = p.gateway_id
    WHERE p.state IN ('PENDING', 'DISPATCHED', 'APPLYING', 'LIVE')
      AND (p.max_parallel = 0 OR (${underWay(sql.ref("p.id"))}) < p.max_parallel)
      AND (p.to_come > 0 OR EXISTS (
        SELECT 1 FROM agents AS a WHERE a.cluster_id = p.cluster_id AND ${mayTake} AND NOT EXISTS (
          SELECT 1 FROM publish_targets AS t WHERE t.product_publish_id = p.id AND t.agent_id = a.id)))
    ORDER BY p.deployed_at LIMIT ${limit}`.execute(db);
  return rows.map((row) => row.id);
}

/** How long one that went away is waited for: what makes agents crash must not go through all of them. */
const returnsWithinSeconds = 60;

/** How many agents a publish is on its way to; those that are away for longer hold up nobody. */
export function underWay(publishId: Expression<string>) {
  return sql<number>`SELECT count(*)::int FROM publish_targets AS o JOIN sessions AS s ON s.agent_id = o.agent_id
    WHERE o.product_publish_id = ${publishId} AND o.state IN ('PENDING', 'DISPATCHED', 'APPLYING')
      AND (s.state = 'SERVING' OR s.ended_at > now() - make_interval(secs => ${returnsWithinSeconds}))`;
}

export interface Serving {
  publishId: string;
  revision: number;
  apiServices: readonly string[];
  content: ProductManifest;
  allowPrivateBackends: boolean;
  organisationId: string;
  limits: Limits;
  secretVersions: Record<string, string>;
}

/**
 * Enqueues what makes these agents serve the publish: the data plane where it is new or has failed, and the routes.
 * One answer per agent: its routes' command.
 */
export async function attach(
  ports: EnginePorts,
  work: Work,
  caller: Caller,
  place: Place,
  serving: Serving,
  agentIds: readonly string[],
): Promise<(Enqueued & { agentId: string })[]> {
  const wishes: ConvergeWish[] = [];
  const routesAt: { agentId: string; index: number }[] = [];
  const newDataPlanes: Insertable<Database["data_planes"]>[] = [];
  const newAttachments: Insertable<Database["route_attachments"]>[] = [];
  const found = await lockedPlaces(work.tx, place, agentIds);
  for (const agentId of agentIds) {
    const { dataPlane, routes } = found(agentId);
    const about = { agentId, clusterId: place.clusterId, ...by(caller), limits: serving.limits };
    if (dataPlane.isNew || dataPlane.isHeld) {
      wishes.push({
        ...about,
        deploymentId: dataPlane.deploymentId,
        organisationId: place.gateway.organisationId,
        kind: "data-plane",
        ownerId: place.gateway.id,
        // Before the routes that wait for it.
        limits: { ...serving.limits, priority: Math.max(0, serving.limits.priority - 1) },
        build: () => dataPlaneSpec(place.gateway, serving.limits.runTimeoutMs),
      });
    }
    routesAt.push({ agentId, index: wishes.length });
    wishes.push({
      ...about,
      deploymentId: routes.deploymentId,
      organisationId: serving.organisationId,
      kind: "product-publish",
      ownerId: serving.publishId,
      productPublishId: serving.publishId,
      build: () =>
        routesSpec(
          {
            id: serving.publishId,
            revision: serving.revision,
            apiServices: serving.apiServices,
            runTimeoutMs: serving.limits.runTimeoutMs,
            allowPrivateBackends: serving.allowPrivateBackends,
            secretVersions: serving.secretVersions,
          },
          serving.content,
          dataPlane.deploymentId,
        ),
    });
    if (dataPlane.isNew)
      newDataPlanes.push({ gateway_id: place.gateway.id, agent_id: agentId, deployment_id: dataPlane.deploymentId });
    if (routes.isNew) {
      newAttachments.push({
        product_id: place.productId,
        gateway_id: place.gateway.id,
        agent_id: agentId,
        deployment_id: routes.deploymentId,
        data_plane_deployment_id: dataPlane.deploymentId,
      });
    }
  }
  const enqueued = await converge(ports, work, wishes);
  // After the deployments that they refer to.
  if (newDataPlanes.length > 0) await work.tx.insertInto("data_planes").values(newDataPlanes).execute();
  if (newAttachments.length > 0) await work.tx.insertInto("route_attachments").values(newAttachments).execute();
  return routesAt.flatMap(({ agentId, index }) => {
    const command = enqueued[index];
    return command === undefined ? [] : [{ ...command, agentId }];
  });
}

/** A changed gateway is a new generation of each of its data planes. */
export async function gatewayChanged(ports: EnginePorts, work: Work, gatewayId: string, limits: Limits): Promise<void> {
  const gateway = await work.tx
    .selectFrom("gateways")
    .selectAll()
    .where("id", "=", gatewayId)
    .executeTakeFirstOrThrow();
  const template = { id: gateway.id, gatewayClass: gateway.gateway_class, listeners: listenersOf(gateway.listeners) };
  const rows = await work.tx
    .selectFrom("data_planes as p")
    .innerJoin("deployments as d", "d.id", "p.deployment_id")
    .select(["d.id", "d.agent_id", "d.cluster_id", "d.organisation_id"])
    .where("p.gateway_id", "=", gatewayId)
    .where("p.removing", "=", false)
    .orderBy("d.id")
    .execute();
  await converge(
    ports,
    work,
    rows.map((row) => ({
      deploymentId: row.id,
      agentId: row.agent_id,
      clusterId: row.cluster_id,
      organisationId: row.organisation_id,
      kind: "data-plane",
      ownerId: gatewayId,
      createdBy: "system",
      limits,
      build: () => dataPlaneSpec(template, limits.runTimeoutMs),
    })),
  );
}

/** P2: `exclusive` to change the rows of a gateway at these agents, `shared` to rely on them. In the order given. */
export async function lockPlaces(
  tx: Tx,
  gatewayId: string,
  agentIds: readonly string[],
  mode: "exclusive" | "shared",
): Promise<void> {
  if (agentIds.length === 0) return;
  const names = agentIds.map((agentId) => `${gatewayId} ${agentId}`);
  const lock = sql.raw(mode === "exclusive" ? "pg_advisory_xact_lock" : "pg_advisory_xact_lock_shared");
  await sql`SELECT ${lock}(hashtextextended(name, 11)) FROM unnest(${names}::text[]) AS name`.execute(tx);
}

interface Found {
  dataPlane: { deploymentId: string; isNew: boolean; isHeld: boolean };
  routes: { deploymentId: string; isNew: boolean };
}

/**
 * What each agent has of the gateway and product, under P2: exclusive where something is to be made. Looked at twice,
 * because what is there decides about the lock, and only what is there under the lock counts.
 */
async function lockedPlaces(tx: Tx, place: Place, agentIds: readonly string[]): Promise<(agentId: string) => Found> {
  const changes = (found: Map<string, Found>) =>
    agentIds.some((agentId) => {
      const { dataPlane, routes } = found.get(agentId) ?? nothingYet();
      return dataPlane.isNew || dataPlane.isHeld || routes.isNew;
    });
  const exclusive = changes(await placesAt(tx, place, agentIds));
  await lockPlaces(tx, place.gateway.id, agentIds, exclusive ? "exclusive" : "shared");
  const found = await placesAt(tx, place, agentIds);
  if (!exclusive && changes(found)) throw new MovedOn();
  return (agentId) => found.get(agentId) ?? nothingYet();
}

function nothingYet(): Found {
  return {
    dataPlane: { deploymentId: newDeploymentId(), isNew: true, isHeld: false },
    routes: { deploymentId: newDeploymentId(), isNew: true },
  };
}

async function placesAt(tx: Tx, place: Place, agentIds: readonly string[]): Promise<Map<string, Found>> {
  const { rows } = await sql<{ agent: string; dataPlane: string; held: string; routes: string | null }>`
    SELECT p.agent_id AS agent, p.deployment_id AS "dataPlane", d.held_reason AS held, r.deployment_id AS routes
    FROM data_planes AS p JOIN deployments AS d ON d.id = p.deployment_id
    LEFT JOIN route_attachments AS r ON r.product_id = ${place.productId} AND r.gateway_id = p.gateway_id
      AND r.agent_id = p.agent_id AND NOT r.removing
    WHERE p.gateway_id = ${place.gateway.id} AND p.agent_id = ANY(${[...agentIds]}) AND NOT p.removing`.execute(tx);
  return new Map(
    rows.map((row) => [
      row.agent,
      {
        dataPlane: { deploymentId: row.dataPlane, isNew: false, isHeld: row.held !== "" },
        routes:
          row.routes === null
            ? { deploymentId: newDeploymentId(), isNew: true }
            : { deploymentId: row.routes, isNew: false },
      },
    ]),
  );
}
