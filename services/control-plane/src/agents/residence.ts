/** What a cluster asks of its agents: how many there are, and to go with it. */
import { sql } from "kysely";
import type { AgentCounts, Resident } from "../clusters/index.ts";
import { type Caller, systemPrincipal } from "../platform/context.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { countPresent, forgetAgent, forgetPublishes } from "./history.ts";
import { revokeLocked } from "./leave.ts";
import { type AgentPorts, type AgentState, agentStates, goneStates, lateAfterMs } from "./model.ts";
import { lockAgent } from "./queries.ts";

const itself: Caller = { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } };

/** From the database alone: `agent_seen` is written more often than an agent becomes late. */
export async function countByCluster(db: Db, clusterIds: readonly string[]): Promise<ReadonlyMap<string, AgentCounts>> {
  if (clusterIds.length === 0) return new Map();
  const { rows } = await sql<AgentCounts & { id: string }>`
    SELECT id, count(*)::int AS total,
      count(*) FILTER (WHERE NOT has_session)::int AS offline,
      count(*) FILTER (WHERE has_session AND in_time)::int AS online,
      count(*) FILTER (WHERE has_session AND in_time AND (state <> 'ENROLLED' OR runtime_problem <> ''))::int AS unhealthy
    FROM (
      SELECT a.cluster_id AS id, a.state, a.runtime_problem, coalesce(s.state <> 'ENDED', false) AS has_session,
        greatest(s.opened_at, seen.last_seen_at) > now() - make_interval(secs => ${lateAfterMs / 1000}) AS in_time
      FROM agents AS a
      LEFT JOIN sessions AS s ON s.agent_id = a.id
      LEFT JOIN agent_seen AS seen ON seen.agent_id = a.id
      WHERE a.cluster_id = ANY(${[...clusterIds]}) AND a.state <> ALL(${goneStates})
    ) AS agents
    GROUP BY id`.execute(db);
  return new Map(rows.map(({ id, ...counts }) => [id, counts]));
}

export function residence(ports: AgentPorts): Resident {
  return {
    async remaining(tx, clusterId) {
      const live = await tx
        .selectFrom("agents")
        .select(({ fn }) => fn.countAll<number>().as("count"))
        .where("cluster_id", "=", clusterId)
        .where("state", "not in", goneStates)
        .executeTakeFirstOrThrow();
      return live.count + (await countPresent(tx, { clusterId }));
    },
    /** Revokes the agents that have nothing left to remove. */
    async removeAll(clusterId) {
      const rows = await ports.db
        .selectFrom("agents as a")
        .select("a.id")
        .where("a.cluster_id", "=", clusterId)
        .where("a.state", "not in", goneStates)
        .where(sql<boolean>`NOT EXISTS (SELECT 1 FROM deployments AS d WHERE d.agent_id = a.id AND NOT d.is_absent)`)
        .orderBy("a.id")
        .execute();
      for (const { id } of rows) {
        await transact(ports.db, async (work) => {
          const row = await lockAgent(work.tx, systemPrincipal, id);
          if (agentStates[row.state as AgentState].gone) return; // an operator came first
          if ((await countPresent(work.tx, { agentId: id })) === 0) await revokeLocked(ports, work, itself, row);
        });
      }
    },
    async forget(work, clusterId) {
      await forgetPublishes(work.tx, clusterId);
      const rows = await work.tx.selectFrom("agents").select("id").where("cluster_id", "=", clusterId).execute();
      for (const { id } of rows) {
        await forgetAgent(work.tx, id);
        await ports.events.note(work, [{ topic: "agent", subjectId: id, clusterId }]);
      }
    },
  };
}
