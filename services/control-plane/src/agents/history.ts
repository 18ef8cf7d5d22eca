/**
 * Forgetting: deletes the history that refers to an agent or a cluster, so that
 * the row itself can go. This is the one place that deletes other slices' rows:
 * what they keep of an agent has no meaning without it. The audit trail stays.
 *
 * H1: called only with every deployment absent; nothing that runs is forgotten.
 */
import type { Tx } from "../platform/transactions.ts";

/** Deployments, commands and placements of an agent that owes nothing (H1), and the agent. */
export async function forgetAgent(tx: Tx, agentId: string): Promise<void> {
  await tx.deleteFrom("publish_targets").where("agent_id", "=", agentId).execute();
  await tx.deleteFrom("route_attachments").where("agent_id", "=", agentId).execute();
  await tx.deleteFrom("data_planes").where("agent_id", "=", agentId).execute();
  await tx.deleteFrom("commands").where("agent_id", "=", agentId).execute(); // with states and progress
  await tx.deleteFrom("ended_commands").where("agent_id", "=", agentId).execute();
  await tx.deleteFrom("deployments").where("agent_id", "=", agentId).execute(); // with generations and instances
  await tx.deleteFrom("agents").where("id", "=", agentId).execute(); // with session and uses of tokens
}

/** Publishes of a cluster in which nothing is deployed (H1). */
export async function forgetPublishes(tx: Tx, clusterId: string): Promise<void> {
  await tx.deleteFrom("product_publishes").where("cluster_id", "=", clusterId).execute(); // with targets
}

/** Deployments that are not known to be gone: of an agent, or of a cluster. */
export async function countPresent(tx: Tx, of: { agentId: string } | { clusterId: string }): Promise<number> {
  let query = tx
    .selectFrom("deployments")
    .select(({ fn }) => fn.countAll<number>().as("count"))
    .where("is_absent", "=", false);
  query = "agentId" in of ? query.where("agent_id", "=", of.agentId) : query.where("cluster_id", "=", of.clusterId);
  return (await query.executeTakeFirstOrThrow()).count;
}
