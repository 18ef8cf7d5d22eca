/**
 * Taking back publishes that failed and ask for that.
 *
 * V1: for what failed, and not for who is not there: an agent that stays away, or has left, says nothing of what was
 *     published, and the others serve it (publish-rows.ts).
 * V2: only to what served until then: nothing comes back that somebody has removed (there, too).
 * V3: what is refused now is refused again: it is said, and not tried again.
 */
import { isProblem, type Problem } from "@bowline/kernel";
import { sql } from "kysely";
import { type Db, transact, type Work } from "../platform/transactions.ts";
import { touch } from "./owner.ts";
import type { PublishPorts } from "./publish-ports.ts";
import { isTakenBack, itself, lockPublish, newestAt } from "./publish-rows.ts";
import { rollback } from "./publishes.ts";

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
        // Of the publish's own organisation: an administrator may publish where no cluster is granted to it.
        const { principal, request } = itself;
        const own = { principal: { ...principal, organisationId: publish.organisation_id }, request };
        await tell(ports, work, id, await rollback(ports, work, own, id));
      });
    } catch (error) {
      // A cluster that takes nothing new has nothing taken back either.
      if (isProblem(error, "CLUSTER_INACTIVE") || isProblem(error, "CLUSTER_DELETING")) continue;
      if (isProblem(error) && refusals.includes(error.code)) await giveUp(ports, id, error); // V3
      else log.warn({ error, publishId: id }, "a failed publish could not be taken back; tried again");
    }
  }
}

/** What a rollback is refused with for what it is, and not for how the server is doing. */
const refusals: readonly string[] = ["failed_precondition", "not_found", "invalid_argument", "already_exists"];

async function giveUp(ports: PublishPorts, id: string, why: Problem): Promise<void> {
  await transact(ports.engine().db, async (work) => {
    const { numUpdatedRows } = await work.tx
      .updateTable("product_publishes")
      .set({ auto_revert: false, message: sql`message || ${`; it cannot be taken back: ${why.message}`}` })
      .where("id", "=", id)
      .where("state", "=", "FAILED")
      .where("auto_revert", "=", true)
      .executeTakeFirst();
    if (numUpdatedRows > 0n) await touch(ports.engine(), work, [id]);
  });
}

/** Whoever watches it hears what took its place. */
async function tell(ports: PublishPorts, work: Work, id: string, by: string): Promise<void> {
  await work.tx.updateTable("product_publishes").set({ superseded_by: by }).where("id", "=", id).execute();
  await touch(ports.engine(), work, [id]);
}

/** The next ones. */
async function toRevert(db: Db): Promise<{ id: string; cluster_id: string }[]> {
  return db
    .selectFrom("product_publishes as p")
    .select(["p.id", "p.cluster_id"])
    .where("p.state", "=", "FAILED")
    .where("p.auto_revert", "=", true)
    .where(isTakenBack)
    .orderBy("p.deployed_at")
    .limit(roundSize)
    .execute();
}
