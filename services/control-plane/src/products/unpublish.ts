/** Removing what is published. */
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import type { Caller } from "../platform/context.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { detach } from "./detachments.ts";
import { settle, touch } from "./owner.ts";
import type { PublishPorts } from "./publish-ports.ts";
import { itself, limitsOf, lockPublish, newestAt, type PublishRow } from "./publish-rows.ts";

/** Removes what a publish serves; throws a draft away. Asked twice, it does nothing new. Throws NOT_NEWEST_PUBLISH. */
export async function unpublish(ports: PublishPorts, work: Work, caller: Caller, publishId: string): Promise<void> {
  const { publish } = await lockPublish(ports, work, publishId);
  if (publish.state === "UNPUBLISHING" || publish.state === "UNPUBLISHED") return;
  if (publish.state === "DRAFT") {
    await work.tx.updateTable("product_publishes").set({ state: "UNPUBLISHED" }).where("id", "=", publishId).execute();
    await touch(ports.engine(), work, [publishId]);
  } else {
    const newest = await newestAt(work.tx, publish);
    if (newest !== undefined && newest !== publishId)
      throw problem("NOT_NEWEST_PUBLISH", `A newer publish of the product is there: ${newest}.`, {
        metadata: { newest },
      });
    await remove(ports, work, caller, publish);
  }
  await audit(ports.engine().events, work, caller, {
    action: "product-publish.unpublish",
    resourceKind: "product-publish",
    resourceId: publishId,
    organisationId: publish.organisation_id,
  });
}

async function remove(ports: PublishPorts, work: Work, caller: Caller, publish: PublishRow): Promise<void> {
  // First, so that what `detach` ends on the way finds a publish that is on its way out.
  await work.tx
    .updateTable("product_publishes")
    .set({ state: "UNPUBLISHING", reason: "", message: "" })
    .where("id", "=", publish.id)
    .execute();
  const commands = await detach(
    ports.engine(),
    work,
    caller,
    {
      clusterId: publish.cluster_id,
      gatewayId: publish.gateway_id,
      productId: publish.product_id,
      publishId: publish.id,
      organisationId: publish.organisation_id,
    },
    limitsOf(publish.limits),
  );
  // Targets whose routes are gone already have nothing to remove.
  await work.tx
    .updateTable("publish_targets")
    .set({ state: "UNPUBLISHED" })
    .where("product_publish_id", "=", publish.id)
    .execute();
  for (const command of commands) {
    const values = {
      generation: command.generation,
      command_id: command.commandId,
      state: "UNPUBLISHING",
      reason: "",
      message: "",
    };
    await work.tx
      .insertInto("publish_targets")
      .values({
        product_publish_id: publish.id,
        agent_id: command.agentId,
        deployment_id: command.deploymentId,
        ...values,
      })
      .onConflict((conflict) =>
        conflict.columns(["product_publish_id", "agent_id"]).doUpdateSet({
          deployment_id: command.deploymentId,
          ...values,
          updated_at: sql`now()`,
        }),
      )
      .execute();
  }
  await settle(ports.engine(), work, [publish.id]);
}

/** Unpublishes everything of a cluster, for its deletion. Asked again, it does nothing new. */
export async function unpublishAll(ports: PublishPorts, clusterId: string): Promise<void> {
  const { rows } = await sql<{ id: string; state: string }>`
    SELECT DISTINCT ON (gateway_id, product_id) id, state FROM product_publishes
    WHERE cluster_id = ${clusterId} AND deployed_at IS NOT NULL
    ORDER BY gateway_id, product_id, deployed_at DESC`.execute(ports.engine().db);
  for (const { id, state } of rows) {
    if (state === "UNPUBLISHING" || state === "UNPUBLISHED") continue;
    await transact(ports.engine().db, (work) => unpublish(ports, work, itself, id));
  }
}
