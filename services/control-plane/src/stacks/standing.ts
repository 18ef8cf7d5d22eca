/**
 * Whether the cluster's policy still allows a revision that is there already: policies get narrower.
 *
 * K1: asked wherever a person wants something of it to start (start, restart, roll back, resume, promote), and where
 *     placement would give an agent more of it. Not asked: what takes away, what a rollout that runs still has to do,
 *     and going back by itself to what was stable, which has to work above all.
 */
import { isProblem, type Problem } from "@bowline/kernel";
import type { Tx } from "../platform/transactions.ts";
import { refuseRevision } from "./compose-source.ts";
import type { StackPorts } from "./ports.ts";
import { revisionOf } from "./revisions.ts";
import type { StackRow } from "./rows.ts";

export const refusedByPolicy = "COMPOSE_REFUSED_BY_POLICY";

/** Locks the cluster, as everything that changes a stack does first. Throws COMPOSE_REFUSED_BY_POLICY, NOT_FOUND. */
export async function refuseAsItStands(
  ports: StackPorts,
  tx: Tx,
  stack: Pick<StackRow, "id" | "cluster_id">,
  revision: number,
): Promise<void> {
  const cluster = await ports.lockClusterForChange(tx, stack.cluster_id);
  if (cluster !== undefined) refuseRevision(await revisionOf(tx, stack.id, revision), cluster.policy);
}

/** The same as a value; undefined: it is allowed. */
export async function refusalAsItStands(...given: Parameters<typeof refuseAsItStands>): Promise<Problem | undefined> {
  try {
    await refuseAsItStands(...given);
    return undefined;
  } catch (error) {
    if (isProblem(error) && error.reason === refusedByPolicy) return error;
    throw error;
  }
}
