/**
 * Which agents get a publish, and the deployments there: one data plane per
 * gateway and agent, one routes deployment per product, gateway and agent.
 *
 * P1: a deployment keeps its agent for life; an agent that has one keeps
 *     getting what belongs to it, also while it is cordoned (sticky).
 * P2: the rows of a gateway at an agent change only under their advisory lock.
 */
import type { Database } from "@bowline/db";
import { type Insertable, sql } from "kysely";
import type { Caller } from "../platform/context.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import { converge, type ConvergeWish, type EnginePorts, type Enqueued, type Limits } from "../commands/index.ts";
import { newDeploymentId } from "../deployments/index.ts";
import type { ProductManifest } from "@bowline/contract/products";
import { listenersOf } from "./catalogue/index.ts";
import { absentSpec, dataPlaneSpec, type GatewayTemplate, routesSpec } from "./compile.ts";

export interface Place {
  clusterId: string;
  gateway: GatewayTemplate & { agentLabels: Record<string, string>; organisationId: string };
  productId: string;
}

/** Agents of the cluster that the gateway's labels match, that have its class and aren't cordoned, or that have this product there already. */
export async function eligibleAgents(tx: Tx, place: Place): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    SELECT a.id FROM agents AS a
    JOIN clusters AS c ON c.id = a.cluster_id
    WHERE a.cluster_id = ${place.clusterId} AND a.state = 'ENROLLED'
      AND (a.reported_labels || a.labels) @> ${JSON.stringify(place.gateway.agentLabels)}::jsonb
      AND a.capabilities ? ${`gateway-class/${place.gateway.gatewayClass}`}
      AND (jsonb_array_length(c.capabilities) = 0 OR c.capabilities ? ${`gateway-class/${place.gateway.gatewayClass}`})
      AND (NOT a.cordoned OR EXISTS (
        SELECT 1 FROM route_attachments AS r WHERE r.product_id = ${place.productId}
          AND r.gateway_id = ${place.gateway.id} AND r.agent_id = a.id AND NOT r.removing))
    ORDER BY a.id`.execute(tx);
  return rows.map((row) => row.id);
}

export interface Serving {
  publishId: string;
  revision: number;
  apiServices: readonly string[];
  content: ProductManifest;
  allowPrivateBackends: boolean;
  organisationId: string;
  limits: Limits;
}

/** Enqueues what makes these agents serve the publish: the data plane where it is new, and the routes. One answer per agent: its routes' command. */
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
  for (const agentId of agentIds) {
    await lockPlace(work.tx, place.gateway.id, agentId);
    const dataPlane = await ensureDataPlane(work.tx, place, agentId);
    const about = { agentId, clusterId: place.clusterId, createdBy: caller.principal.id, limits: serving.limits };
    if (dataPlane.isNew) {
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
    const routes = await ensureAttachment(work.tx, place, agentId);
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

/** Enqueues the removal of a product's routes at a gateway and cluster. One answer per agent that had them. */
export async function detach(
  ports: EnginePorts,
  work: Work,
  caller: Caller,
  place: { clusterId: string; gatewayId: string; productId: string; publishId: string; organisationId: string },
  limits: Limits,
): Promise<(Enqueued & { agentId: string })[]> {
  const rows = await work.tx
    .selectFrom("route_attachments as r")
    .innerJoin("agents as a", "a.id", "r.agent_id")
    .select(["r.deployment_id", "r.agent_id", "r.data_plane_deployment_id"])
    .where("a.cluster_id", "=", place.clusterId)
    .where("r.gateway_id", "=", place.gatewayId)
    .where("r.product_id", "=", place.productId)
    .where("r.removing", "=", false)
    .orderBy("r.agent_id")
    .execute();
  for (const row of rows) await lockPlace(work.tx, place.gatewayId, row.agent_id);
  const enqueued = await converge(
    ports,
    work,
    rows.map((row) => ({
      deploymentId: row.deployment_id,
      agentId: row.agent_id,
      clusterId: place.clusterId,
      organisationId: place.organisationId,
      kind: "product-publish",
      ownerId: place.publishId,
      productPublishId: place.publishId,
      createdBy: caller.principal.id,
      limits,
      build: () => {
        const routes = routesSpec(
          {
            id: place.publishId,
            revision: 0,
            apiServices: [],
            runTimeoutMs: limits.runTimeoutMs,
            allowPrivateBackends: false,
          },
          emptyManifest,
          row.data_plane_deployment_id,
        );
        return absentSpec(routes, limits.runTimeoutMs);
      },
    })),
  );
  if (rows.length > 0) {
    await work.tx
      .updateTable("route_attachments")
      .set({ removing: true })
      .where(
        "deployment_id",
        "in",
        rows.map((row) => row.deployment_id),
      )
      .execute();
  }
  return rows.flatMap((row, index) => {
    const command = enqueued[index];
    return command === undefined ? [] : [{ ...command, agentId: row.agent_id }];
  });
}

const emptyManifest = { name: "", apiServices: [] as ProductManifest["apiServices"] } as ProductManifest;

/** The routes deployment is gone: forgets it, and removes the data plane where it was the last one attached. */
export async function detached(ports: EnginePorts, work: Work, deploymentId: string, limits: Limits): Promise<void> {
  const row = await work.tx
    .deleteFrom("route_attachments")
    .where("deployment_id", "=", deploymentId)
    .where("removing", "=", true)
    .returning(["gateway_id", "agent_id", "data_plane_deployment_id"])
    .executeTakeFirst();
  if (row === undefined) return;
  await lockPlace(work.tx, row.gateway_id, row.agent_id);
  const left = await work.tx
    .selectFrom("route_attachments")
    .select("deployment_id")
    .where("data_plane_deployment_id", "=", row.data_plane_deployment_id)
    .executeTakeFirst();
  if (left !== undefined) return;
  const dataPlane = await work.tx
    .updateTable("data_planes")
    .set({ removing: true })
    .where("deployment_id", "=", row.data_plane_deployment_id)
    .where("removing", "=", false)
    .returning("deployment_id")
    .executeTakeFirst();
  if (dataPlane === undefined) return;
  const deployment = await work.tx
    .selectFrom("deployments")
    .selectAll()
    .where("id", "=", dataPlane.deployment_id)
    .executeTakeFirstOrThrow();
  const gateway = await work.tx
    .selectFrom("gateways")
    .selectAll()
    .where("id", "=", row.gateway_id)
    .executeTakeFirstOrThrow();
  const template = { id: gateway.id, gatewayClass: gateway.gateway_class, listeners: listenersOf(gateway.listeners) };
  await converge(ports, work, [
    {
      deploymentId: deployment.id,
      agentId: deployment.agent_id,
      clusterId: deployment.cluster_id,
      organisationId: deployment.organisation_id,
      kind: "data-plane",
      ownerId: row.gateway_id,
      createdBy: "system",
      limits,
      build: () => absentSpec(dataPlaneSpec(template, limits.runTimeoutMs), limits.runTimeoutMs),
    },
  ]);
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

/** P2. */
async function lockPlace(tx: Tx, gatewayId: string, agentId: string): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${`${gatewayId} ${agentId}`}, 11))`.execute(tx);
}

async function ensureDataPlane(
  tx: Tx,
  place: Place,
  agentId: string,
): Promise<{ deploymentId: string; isNew: boolean }> {
  const row = await tx
    .selectFrom("data_planes")
    .select("deployment_id")
    .where("gateway_id", "=", place.gateway.id)
    .where("agent_id", "=", agentId)
    .where("removing", "=", false)
    .executeTakeFirst();
  return row === undefined
    ? { deploymentId: newDeploymentId(), isNew: true }
    : { deploymentId: row.deployment_id, isNew: false };
}

async function ensureAttachment(
  tx: Tx,
  place: Place,
  agentId: string,
): Promise<{ deploymentId: string; isNew: boolean }> {
  const row = await tx
    .selectFrom("route_attachments")
    .select("deployment_id")
    .where("product_id", "=", place.productId)
    .where("gateway_id", "=", place.gateway.id)
    .where("agent_id", "=", agentId)
    .where("removing", "=", false)
    .executeTakeFirst();
  return row === undefined
    ? { deploymentId: newDeploymentId(), isNew: true }
    : { deploymentId: row.deployment_id, isNew: false };
}
