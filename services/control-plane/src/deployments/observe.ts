/** What agents observe: instances as they report them, the generation that runs, and drift. */
import type { DeploymentState } from "@bowline/contract/agent";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";

/** Drift shows only after two newer observations agree while nothing is open: one may catch a restart half-way. */
const observationsToDrift = 2;

/**
 * Writes what an agent observed of its own deployments; another agent's are
 * left alone. One that is not newer than what is stored changes nothing: where an answer gets lost, an agent that polls
 * says it again. Returns the ids that were taken.
 */
export async function recordObserved(
  tx: Tx,
  agentId: string,
  observation: number,
  states: readonly DeploymentState[],
): Promise<string[]> {
  const ids = states.map((state) => state.deploymentId);
  if (ids.length === 0) return [];
  const own = await tx
    .selectFrom("deployments")
    .select(["id", "desired", "generation"])
    .where("id", "in", ids)
    .where("agent_id", "=", agentId)
    .orderBy("id")
    .forUpdate()
    .execute();
  const byId = new Map(states.map((state) => [state.deploymentId, state]));
  const known = await newestOf(tx, ids);
  const taken: string[] = [];
  for (const deployment of own) {
    const state = byId.get(deployment.id);
    if (state === undefined || observation <= (known.get(deployment.id) ?? -1)) continue;
    taken.push(deployment.id);
    await replaceInstances(tx, state, observation);
    const fits = matches(state, deployment.desired, deployment.generation);
    await sql`
      UPDATE deployments SET
        drift_observations = CASE WHEN ${fits} OR open.exists THEN 0 ELSE drift_observations + 1 END,
        drifted = NOT ${fits} AND NOT open.exists AND drift_observations + 1 >= ${observationsToDrift}
      FROM (SELECT EXISTS (
        SELECT 1 FROM command_states WHERE deployment_id = ${deployment.id}
        AND state IN ('BLOCKED', 'READY', 'ASSIGNED', 'RUNNING', 'CANCELLING', 'RETRY_WAIT')) AS exists) AS open
      WHERE id = ${deployment.id}`.execute(tx);
  }
  return taken;
}

/** The newest observation of each that has instances. Read after the locks: an observation may have waited for another. */
async function newestOf(tx: Tx, ids: readonly string[]): Promise<Map<string, number>> {
  const rows = await tx
    .selectFrom("instances")
    .select(["deployment_id", ({ fn }) => fn.max("observation").as("newest")])
    .where("deployment_id", "in", ids)
    .groupBy("deployment_id")
    .execute();
  return new Map(rows.map((row) => [row.deployment_id, row.newest]));
}

async function replaceInstances(tx: Tx, state: DeploymentState, observation: number): Promise<void> {
  const kept = state.instances.map((instance) => `${instance.workload}/${instance.index}`);
  await sql`
    DELETE FROM instances WHERE deployment_id = ${state.deploymentId} AND observation <= ${observation}
      AND NOT (workload || '/' || index = ANY(${kept}))`.execute(tx);
  for (const instance of state.instances) {
    const values = {
      generation: state.generation,
      phase: instance.phase,
      health: instance.health,
      restarts: instance.restarts,
      exit_code: instance.exitCode ?? null,
      image: instance.image,
      ports: JSON.stringify(
        instance.ports.map(({ name, container, address, published }) => ({ name, container, address, published })),
      ),
      reason: instance.reason,
      started_at: instance.startedAt === undefined ? null : timestampDate(instance.startedAt),
      observation,
    };
    await tx
      .insertInto("instances")
      .values({ deployment_id: state.deploymentId, workload: instance.workload, index: instance.index, ...values })
      .onConflict((conflict) =>
        conflict
          .columns(["deployment_id", "workload", "index"])
          .doUpdateSet({
            ...values,
            observed_at: sql`now()`,
            renewed_at: sql`CASE WHEN instances.started_at IS DISTINCT FROM excluded.started_at THEN now()
              ELSE instances.renewed_at END`,
          })
          .where("instances.observation", "<=", observation),
      )
      .execute();
  }
}

/** Whether what runs is what is desired. A job that has ended well is as it should be. */
function matches(state: DeploymentState, desired: string, generation: number): boolean {
  switch (desired) {
    case "ABSENT":
      return state.absent;
    case "STOPPED":
      return !state.instances.some((instance) => instance.phase === "RUNNING");
    case "PAUSED":
      return state.instances.every((instance) => instance.phase !== "RUNNING");
    default:
      return (
        !state.absent &&
        state.generation === generation &&
        state.instances.every(
          (instance) =>
            (instance.phase === "RUNNING" && instance.health !== "UNHEALTHY" && !instance.altered) ||
            (instance.phase === "EXITED" && instance.exitCode === 0),
        )
      );
  }
}
