/**
 * Deleting a cluster: at once where nothing is in it; with `cascade` after all
 * that is in it has gone.
 *
 * L1: once DELETING is committed nothing new enters: enrolment and publishing
 *     lock the same row and see it.
 */
import { toJson } from "@bufbuild/protobuf";
import { ClusterSchema, type DeleteClusterRequest } from "@bowline/contract/clusters";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, systemPrincipal } from "../platform/context.ts";
import { createBell } from "../platform/bell.ts";
import { guardEtag } from "../platform/etags.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { clusterOf, type ClusterPorts, type ClusterRow } from "./model.ts";
import { lockCluster } from "./queries.ts";
import { revokeTokens } from "./tokens.ts";

/** Throws NOT_FOUND, STALE_ETAG, CLUSTER_NOT_EMPTY. */
export async function deleteCluster(ports: ClusterPorts, caller: Caller, request: DeleteClusterRequest): Promise<void> {
  const left = await transact(ports.db, async (work) => {
    const row = await lockCluster(work.tx, request.id, "update");
    if (row === undefined) throw problem("NOT_FOUND", `There is no cluster ${request.id}.`);
    guardEtag(request.etag, row.version);
    const remaining = await countRemaining(ports, work, row.id);
    if (remaining > 0 && !request.cascade) {
      throw problem(
        "CLUSTER_NOT_EMPTY",
        `The cluster ${row.name} still has ${remaining} agents or deployments. With cascade they go first.`,
        { metadata: { remaining: String(remaining) } },
      );
    }
    await audit(ports.events, work, caller, {
      action: "cluster.delete",
      resourceKind: "cluster",
      resourceId: row.id,
      organisationId: "",
      before: toJson(ClusterSchema, clusterOf(row)),
    });
    if (remaining === 0) {
      await drop(ports, work, row);
      return undefined;
    }
    await work.tx
      .updateTable("clusters")
      .set({ deleting: true, is_default: false, version: sql`version + 1`, updated_at: sql`now()` })
      .where("id", "=", row.id)
      .execute();
    await revokeTokens(work.tx, { clusterId: row.id });
    return row.id;
  });
  if (left !== undefined) await finish(ports, left);
}

/** What is removed elsewhere is looked for this often; nobody waits for it. */
const lookEveryMs = 5_000;

/** See Clusters.run. */
export async function runDeletions(ports: ClusterPorts, signal: AbortSignal): Promise<void> {
  const bell = createBell();
  while (!signal.aborted) {
    try {
      const rows = await ports.db
        .selectFrom("clusters")
        .select("id")
        .where("deleting", "=", true)
        .orderBy("id")
        .execute();
      for (const { id } of rows) await finish(ports, id);
    } catch (error) {
      if (!signal.aborted) ports.log.error({ error }, "deletions of clusters were not looked for; tried again");
    }
    await bell.wait(bell.count(), lookEveryMs, signal);
  }
}

/** One round for one cluster. What fails is tried again by the next round. */
async function finish(ports: ClusterPorts, clusterId: string): Promise<void> {
  try {
    for (const resident of ports.residents) await resident.removeAll(clusterId);
    await transact(ports.db, async (work) => {
      const row = await lockCluster(work.tx, clusterId, "update");
      if (row?.deleting !== true || (await countRemaining(ports, work, clusterId)) > 0) return;
      const itself: Caller = { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } };
      await audit(ports.events, work, itself, {
        action: "cluster.deleted",
        resourceKind: "cluster",
        resourceId: clusterId,
        before: toJson(ClusterSchema, clusterOf(row)),
      });
      await drop(ports, work, row);
    });
  } catch (error) {
    ports.log.error({ error, clusterId }, "a cluster's deletion did not get further; tried again");
  }
}

async function countRemaining(ports: ClusterPorts, work: Work, clusterId: string): Promise<number> {
  let count = 0;
  for (const resident of ports.residents) count += await resident.remaining(work.tx, clusterId);
  return count;
}

async function drop(ports: ClusterPorts, work: Work, row: ClusterRow): Promise<void> {
  for (const resident of ports.residents) await resident.forget(work, row.id);
  await work.tx.deleteFrom("clusters").where("id", "=", row.id).execute();
}
