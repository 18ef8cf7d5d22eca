/**
 * Strays: what an agent carries with our labels that belongs to no deployment
 * known here. They are shown to people and never removed by themselves: what
 * this database does not know may be what a restore has forgotten.
 */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { DeploymentState } from "@bowline/contract/agent";
import { type Stray, StraySchema } from "@bowline/contract/agents";
import { sql } from "kysely";
import type { Db, Tx } from "../platform/transactions.ts";

/** Kept per agent: enough to see what happened; an agent that invents them fills nothing. */
const maxStrays = 100;
/** Instances told of one. */
const maxInstances = 20;

/** Keeps what this report shows of deployments that are not this agent's, and forgets what is gone or known by now. */
export async function recordStrays(
  tx: Tx,
  from: { agentId: string; epoch: number },
  states: readonly DeploymentState[],
): Promise<void> {
  if (states.length === 0) return;
  const known = await tx
    .selectFrom("deployments")
    .select("id")
    .where("agent_id", "=", from.agentId)
    .where("is_absent", "=", false)
    .where(sql<boolean>`id = ANY(${states.map((state) => state.deploymentId)})`)
    .execute();
  const ids = new Set(known.map((row) => row.id));
  const strays = states.filter((state) => !ids.has(state.deploymentId) && !state.absent && state.instances.length > 0);
  const found = new Set(strays.map((state) => state.deploymentId));
  const gone = states.filter((state) => !found.has(state.deploymentId)).map((state) => state.deploymentId);
  // Of an older session: the newest one tells everything anew.
  await sql`
    DELETE FROM strays WHERE agent_id = ${from.agentId}
      AND (epoch < ${from.epoch} OR deployment_id = ANY(${gone}))`.execute(tx);
  if (strays.length === 0) return;
  await sql`
    INSERT INTO strays (agent_id, deployment_id, epoch, generation, instances)
    SELECT ${from.agentId}, s.* FROM unnest(${strays.map((state) => state.deploymentId)}::text[],
      ${strays.map(() => from.epoch)}::int[], ${strays.map((state) => state.generation)}::int[],
      ${strays.map((state) => JSON.stringify(state.instances.slice(0, maxInstances).map(lineOf)))}::jsonb[]) AS s
    LIMIT greatest(0, ${maxStrays} - (SELECT count(*) FROM strays WHERE agent_id = ${from.agentId}))
    ON CONFLICT (agent_id, deployment_id) DO UPDATE SET epoch = excluded.epoch, generation = excluded.generation,
      instances = excluded.instances, observed_at = now()`.execute(tx);
}

function lineOf(instance: DeploymentState["instances"][number]): string {
  const { workload, index, phase, reason } = instance;
  return `${workload} ${index} ${phase.toLowerCase()}${reason === "" ? "" : `: ${reason}`}`.slice(0, 300);
}

/** The strays that an agent's newest session told of. */
export async function straysOf(db: Db | Tx, agentId: string): Promise<Stray[]> {
  const rows = await db
    .selectFrom("strays as x")
    .innerJoin("sessions as s", (join) => join.onRef("s.agent_id", "=", "x.agent_id").onRef("s.epoch", "=", "x.epoch"))
    .select(["x.deployment_id", "x.generation", "x.instances", "x.observed_at"])
    .where("x.agent_id", "=", agentId)
    .orderBy("x.deployment_id")
    .execute();
  return rows.map((row) =>
    create(StraySchema, {
      deploymentId: row.deployment_id,
      generation: row.generation,
      instances: row.instances,
      observedAt: timestampFromDate(row.observed_at),
    }),
  );
}
