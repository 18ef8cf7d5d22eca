/** A database as it is after a long life: commands that ended, commands that wait for agents which are away, dead rows. */
import type { TestServer } from "@bowline/testing";
import { sql } from "kysely";
import type { LoadCalls } from "../load/main.ts";
import type { Child } from "./child.ts";
import { addDeployments, enrolGroup } from "./seed.ts";

/** Agents that are away; each of their deployments has one command that waits. */
const awayAgents = 100;
const prefix = "deployment_away";

/**
 * Adds `waiting` deployments with one READY command each and `finished` ended ones among them. The finished ended within
 * the last hour, so that upkeep does not move them yet: the harder case.
 */
export async function grow(
  server: TestServer,
  load: Child<LoadCalls>,
  { finished, waiting }: { finished: number; waiting: number },
): Promise<void> {
  const { db } = server.database;
  const agentIds = await enrolGroup(server, load, { group: "away", count: awayAgents });
  await addDeployments(server, agentIds, Math.ceil(waiting / awayAgents), prefix);
  const each = Math.ceil(finished / waiting);
  await sql`UPDATE deployments SET generation = ${each + 1} WHERE id LIKE ${`${prefix}%`}`.execute(db);
  for (const ended of [true, false]) {
    await sql`
      INSERT INTO commands (id, deployment_id, agent_id, cluster_id, generation, digest, owner_kind, owner_id, is_removal,
        reduces, max_retries, run_timeout_ms, grace_ms, cancel_limit_ms, offline_life_ms, created_by, created_at)
      SELECT 'command_' || ${ended ? "ended" : "ready"} || '_' || n.generation || '_' || d.id, d.id, d.agent_id, d.cluster_id,
        n.generation, d.observed_digest, d.kind, d.owner_id, false, false, 3, 300000, 30000, 60000, 86400000, 'bench',
        now() - make_interval(secs => 1200 - n.generation)
      FROM deployments AS d CROSS JOIN generate_series(${ended ? 1 : each + 1}::int, ${ended ? each : each + 1}::int) AS n (generation)
      WHERE d.id LIKE ${`${prefix}%`}`.execute(db);
  }
  await sql`
    INSERT INTO command_states (command_id, agent_id, deployment_id, priority, reduces, state, attempt, ended_at, outcome_attempt)
    SELECT c.id, c.agent_id, c.deployment_id, 5, false,
      CASE WHEN c.generation = ${each + 1} THEN 'READY' ELSE 'SUCCEEDED' END,
      CASE WHEN c.generation = ${each + 1} THEN 0 ELSE 1 END,
      CASE WHEN c.generation = ${each + 1} THEN NULL ELSE c.created_at END,
      CASE WHEN c.generation = ${each + 1} THEN NULL ELSE 1 END
    FROM commands AS c WHERE c.deployment_id LIKE ${`${prefix}%`} ORDER BY c.created_at`.execute(db);
  await sql`VACUUM ANALYZE`.execute(db);
}

/**
 * Writes rows of the hot tables again and again, so that `versions` of them die. Nothing of it can be cleared away while
 * a transaction is open that began before.
 */
export async function churn({ database: { db } }: TestServer, versions: number): Promise<void> {
  const { rows } = await sql<{ rows: number }>`
    SELECT (SELECT count(*) FROM command_states) + (SELECT count(*) FROM deployments) AS rows`.execute(db);
  const turns = Math.ceil(versions / Math.max(1, rows[0]?.rows ?? 1));
  for (let turn = 0; turn < turns; turn += 1) {
    await sql`UPDATE command_states SET updated_at = clock_timestamp()`.execute(db);
    await sql`UPDATE deployments SET updated_at = clock_timestamp()`.execute(db);
  }
}
