/** The end of attachments: a product's routes at a gateway's agents, and data planes that nothing is attached to. */
import type { ProductManifest } from "@bowline/contract/products";
import { sql } from "kysely";
import { converge, type EnginePorts, type Enqueued, type Limits } from "../commands/index.ts";
import { by, type Caller } from "../platform/context.ts";
import type { Work } from "../platform/transactions.ts";
import { lockPlaces } from "./attachments.ts";
import { listenersOf } from "./catalogue/index.ts";
import { absentSpec, dataPlaneSpec, routesSpec } from "./compile.ts";
import { inForceStates } from "./publish-rows.ts";

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
  await lockPlaces(
    work.tx,
    place.gatewayId,
    rows.map((row) => row.agent_id),
    "exclusive",
  );
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
      ...by(caller),
      limits,
      build: () => {
        const routes = routesSpec(
          {
            id: place.publishId,
            revision: 0,
            apiServices: [],
            runTimeoutMs: limits.runTimeoutMs,
            allowPrivateBackends: false,
            secretVersions: {},
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

/**
 * The routes deployment is gone: forgets it, and removes the data plane where it was the last one attached; where the
 * agent is gone for good there is nothing left to remove.
 */
export async function detached(
  ports: EnginePorts,
  work: Work,
  deploymentId: string,
  limits: Limits,
  how: { agentGone: boolean },
): Promise<void> {
  const row = await work.tx
    .deleteFrom("route_attachments")
    .where("deployment_id", "=", deploymentId)
    .where("removing", "=", true)
    .returning(["gateway_id", "agent_id", "data_plane_deployment_id"])
    .executeTakeFirst();
  if (row === undefined) return;
  await lockPlaces(work.tx, row.gateway_id, [row.agent_id], "exclusive");
  const left = await work.tx
    .selectFrom("route_attachments")
    .select("deployment_id")
    .where("data_plane_deployment_id", "=", row.data_plane_deployment_id)
    .executeTakeFirst();
  if (left !== undefined) return;
  if (how.agentGone) {
    await work.tx.deleteFrom("data_planes").where("deployment_id", "=", row.data_plane_deployment_id).execute();
    return;
  }
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

/**
 * The agent is gone for good: forgets what was attached there. Publishes in force count it no more; those on their way
 * out have nothing left there. Returns the publishes that this touched.
 */
export async function forgetPlaces(work: Work, agentId: string): Promise<string[]> {
  await work.tx.deleteFrom("route_attachments").where("agent_id", "=", agentId).execute();
  await work.tx.deleteFrom("data_planes").where("agent_id", "=", agentId).execute();
  const { rows } = await sql<{ id: string }>`
    WITH uncounted AS (
      DELETE FROM publish_targets AS t USING product_publishes AS p
      WHERE t.agent_id = ${agentId} AND p.id = t.product_publish_id AND p.state = ANY(${[...inForceStates, "FAILED"]})
      RETURNING p.id),
    removed AS (
      UPDATE publish_targets AS t SET state = 'UNPUBLISHED', reason = 'AGENT_RETIRED', updated_at = now()
      FROM product_publishes AS p
      WHERE t.agent_id = ${agentId} AND p.id = t.product_publish_id
        AND p.state = 'UNPUBLISHING' AND t.state <> 'UNPUBLISHED'
      RETURNING p.id)
    SELECT id FROM uncounted UNION SELECT id FROM removed ORDER BY id`.execute(work.tx);
  return rows.map((row) => row.id);
}
