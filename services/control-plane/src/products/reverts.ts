/** Taking back publishes that failed and ask for that. */
import { isProblem } from "@bowline/kernel";
import { type Db, transact } from "../platform/transactions.ts";
import type { PublishPorts } from "./publish-ports.ts";
import { hasNewer, itself, lockPublish, newestAt } from "./publish-rows.ts";
import { rollback } from "./publishes.ts";
import { sql } from "kysely";

/** Publishes that one round takes back; the next round finds the rest. */
const roundSize = 50;

/**
 * Publishes again what was live before. One transaction per publish, in which a rollback is deployed that is newer than
 * what failed: no other replica and no later round finds it again.
 */
export async function revertEverywhere(ports: PublishPorts): Promise<void> {
  const { db, log } = ports.engine();
  for (const { id, cluster_id: clusterId } of await toRevert(db)) {
    try {
      await transact(db, async (work) => {
        await ports.lockCluster(work.tx, clusterId, itself.principal);
        const { publish } = await lockPublish(ports, work, id);
        if (publish.state !== "FAILED" || (await newestAt(work.tx, publish)) !== id) return; // tried again, or replaced, since
        await rollback(ports, work, itself, id);
      });
    } catch (error) {
      // A cluster that takes nothing new has nothing taken back either.
      if (isProblem(error, "CLUSTER_INACTIVE") || isProblem(error, "CLUSTER_DELETING")) continue;
      log.warn({ error, publishId: id }, "a failed publish could not be taken back; tried again");
    }
  }
}

/** What failed as the newest of its place, is no rollback itself, and has a revision before it that was live. */
async function toRevert(db: Db): Promise<{ id: string; cluster_id: string }[]> {
  return db
    .selectFrom("product_publishes as p")
    .select(["p.id", "p.cluster_id"])
    .where("p.state", "=", "FAILED")
    .where("p.auto_revert", "=", true)
    .where("p.rollback_of", "=", "")
    .where((where) => where.not(hasNewer))
    .where(
      sql<boolean>`EXISTS (
        SELECT 1 FROM product_publishes AS b WHERE b.cluster_id = p.cluster_id AND b.gateway_id = p.gateway_id
          AND b.product_id = p.product_id AND b.revision_id <> p.revision_id AND b.live_at IS NOT NULL)`,
    )
    .orderBy("p.deployed_at")
    .limit(roundSize)
    .execute();
}
