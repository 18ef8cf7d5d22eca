/**
 * Drift: what runs differs from what is desired while nothing is open. It is
 * shown (deployments/observe.ts), and repaired here by a new command where the
 * cluster's policy says so.
 *
 * G1: HELD stops repairs only, and the next enqueue clears it.
 * G2: three repairs in an hour did not help: the deployment is HELD, and a
 *     person has to look.
 * G3: a deployment that cannot be repaired costs that deployment.
 */
import { sql } from "kysely";
import { hold, lockDeployments } from "../deployments/index.ts";
import { isDatabaseAway } from "../platform/problems.ts";
import { transact } from "../platform/transactions.ts";
import { dispatchIsHeld } from "./claim.ts";
import type { EnginePorts } from "./ports.ts";
import { again } from "./requests.ts";

/** `created_by` of commands that repair. */
export const repairer = "drift-repair";
/** G2. */
const repairsPerHour = 3;
/** Deployments looked at in one round; the next one finds the rest. */
const batch = 50;

const repairable = sql<boolean>`d.drifted AND d.held_reason = '' AND NOT d.is_absent
  AND EXISTS (SELECT 1 FROM clusters AS c WHERE c.id = d.cluster_id AND c.is_active AND NOT c.deleting
    AND c.policy ->> 'driftRepair' = 'REPAIR')
  AND EXISTS (SELECT 1 FROM agents AS a WHERE a.id = d.agent_id AND a.state = 'ENROLLED')
  AND NOT ${dispatchIsHeld}`;

/** One round. Returns how many deployments it repaired or held. Any replica may run it. */
export async function repairDrift(ports: EnginePorts): Promise<number> {
  const { rows } = await sql<{ id: string; kind: string }>`
    SELECT d.id, d.kind FROM deployments AS d WHERE ${repairable} ORDER BY d.id LIMIT ${batch}`.execute(ports.db);
  let done = 0;
  for (const { id, kind } of rows) {
    try {
      if (await repair(ports, id, kind)) done += 1;
    } catch (error) {
      if (isDatabaseAway(error)) throw error;
      ports.log.error({ error, deployment: id }, "a deployment could not be repaired; tried again"); // G3
    }
  }
  return done;
}

async function repair(ports: EnginePorts, deploymentId: string, kind: string): Promise<boolean> {
  return transact(ports.db, async (work) => {
    await lockDeployments(work.tx, [deploymentId]); // E3
    const { rows } = await sql<{ repairs: number }>`
      SELECT (SELECT count(*)::int FROM commands AS c WHERE c.deployment_id = d.id AND c.created_by = ${repairer}
        AND c.created_at > now() - interval '1 hour' AND c.generation > coalesce((
          SELECT max(o.generation) FROM commands AS o WHERE o.deployment_id = d.id AND o.created_by <> ${repairer}), 0)) AS repairs
      FROM deployments AS d WHERE d.id = ${deploymentId} AND ${repairable}`.execute(work.tx);
    const [found] = rows;
    if (found === undefined) return false; // another replica, or an observation, came first
    if (found.repairs >= repairsPerHour) {
      await hold(work.tx, new Map([[deploymentId, "REPAIRED_TOO_OFTEN"]])); // G2
      await ports.owners.get(kind)?.observed?.(work, [deploymentId]);
      ports.log.warn({ deployment: deploymentId }, "repaired three times in an hour; held until somebody looks");
      return true;
    }
    await again(ports, work, deploymentId, { createdBy: repairer });
    return true;
  });
}
