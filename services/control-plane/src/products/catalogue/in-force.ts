/**
 * Whether publishes still need a product or a gateway.
 *
 * Only the newest publish of a place (a product at a gateway and cluster) can be unpublished, and it ends with the
 * removal of all of them; so the newest one's state tells for the place. Drafts have not touched any agent.
 */
import type { Tx } from "../../platform/transactions.ts";

type Of = { column: "product_id" | "gateway_id"; id: string };

/** A publish that was deployed and isn't removed from every agent; undefined where there is none. */
export async function publishInForce(tx: Tx, of: Of): Promise<{ id: string; state: string } | undefined> {
  const newest = await tx
    .selectFrom("product_publishes")
    .distinctOn(["product_id", "gateway_id", "cluster_id"])
    .select(["id", "state"])
    .where(of.column, "=", of.id)
    .where("deployed_at", "is not", null)
    .orderBy("product_id")
    .orderBy("gateway_id")
    .orderBy("cluster_id")
    .orderBy("deployed_at", "desc")
    .execute();
  return newest.find((publish) => publish.state !== "UNPUBLISHED");
}

/** Drops what is left of ended publishes and of drafts, so that what they refer to can be deleted. */
export async function forgetPublishes(tx: Tx, of: Of): Promise<void> {
  await tx.deleteFrom("route_attachments").where(of.column, "=", of.id).execute();
  await tx.deleteFrom("product_publishes").where(of.column, "=", of.id).execute();
}
