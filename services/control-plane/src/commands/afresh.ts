/**
 * An agent begins anew on a host that has nothing of it: everything that it has
 * to run is wished once more, at a generation of its own.
 *
 * A1: what was observed at the host before counts no more, nor do the numbers
 *     of its observations: the new host counts from one.
 * A2: what was in flight stays so until the new host's Sync proves it absent
 *     (E7); the new wish waits behind it.
 */
import { forgetObserved, lockPresent } from "../deployments/index.ts";
import type { Work } from "../platform/transactions.ts";
import type { EnginePorts } from "./ports.ts";
import { sessionEnded } from "./reconcile.ts";
import { again } from "./requests.ts";

/**
 * Unbinds what was bound to the session `epoch` and converges every deployment of the agent again, except what is being
 * removed. The caller has ended the session. Returns how many are converged.
 */
export async function beginAfresh(
  ports: EnginePorts,
  work: Work,
  agent: { id: string; epoch: number | undefined; createdBy: string },
): Promise<number> {
  const present = await lockPresent(work.tx, agent.id); // E3: before their commands
  if (agent.epoch !== undefined) await sessionEnded(ports, work, agent.id, agent.epoch);
  const wanted = await forgetObserved(work.tx, present); // A1
  const last = await lastCommands(work, wanted);
  for (const deploymentId of wanted) {
    await again(ports, work, deploymentId, {
      createdBy: agent.createdBy,
      ...last.get(deploymentId),
      fromNothing: true,
    });
  }
  return wanted.length;
}

/** How the newest command of each deployment behaves, so that the next one behaves alike. */
async function lastCommands(work: Work, deploymentIds: readonly string[]) {
  if (deploymentIds.length === 0) return new Map<string, never>();
  const rows = await work.tx
    .selectFrom("commands as c")
    .innerJoin("command_states as s", "s.command_id", "c.id")
    .distinctOn("c.deployment_id")
    .selectAll("c")
    .select("s.priority")
    .where("c.deployment_id", "in", [...deploymentIds])
    .orderBy("c.deployment_id")
    .orderBy("c.generation", "desc")
    .execute();
  return new Map(
    rows.map((row) => [
      row.deployment_id,
      {
        productPublishId: row.product_publish_id,
        ownerKind: row.owner_kind,
        limits: {
          maxRetries: row.max_retries,
          runTimeoutMs: row.run_timeout_ms,
          graceMs: row.grace_ms,
          cancelLimitMs: row.cancel_limit_ms,
          offlineLifeMs: row.offline_life_ms,
          priority: row.priority,
        },
      },
    ]),
  );
}
