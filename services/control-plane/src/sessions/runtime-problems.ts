/** What agents say in heartbeats of the runtimes beside them: kept with the agent, and told to watches, when it is news. */
import { sql } from "kysely";
import type { EnginePorts } from "../commands/index.ts";
import { transact } from "../platform/transactions.ts";
import { noteAgents } from "./open.ts";

/** For people; a runtime that quotes a program's whole output is cut. */
const maxCharacters = 2_000;

/** Problems by agent; an empty one is over. Where nothing is news, one read. */
export async function recordRuntimeProblems(ports: EnginePorts, told: ReadonlyMap<string, string>): Promise<void> {
  if (told.size === 0) return;
  const agents = [...told.keys()].toSorted();
  const problems = agents.map((id) => (told.get(id) ?? "").slice(0, maxCharacters));
  const { rows: news } = await sql<{ id: string; problem: string }>`
    SELECT n.id, n.problem FROM unnest(${agents}::text[], ${problems}::text[]) AS n (id, problem)
    JOIN agents AS a ON a.id = n.id WHERE a.runtime_problem <> n.problem ORDER BY n.id`.execute(ports.db);
  if (news.length === 0) return;
  await transact(ports.db, async (work) => {
    const { rows } = await sql<{ agentId: string; clusterId: string }>`
      WITH n AS (SELECT * FROM unnest(${news.map(({ id }) => id)}::text[], ${news.map(({ problem }) => problem)}::text[])
          AS n (id, problem)),
        held AS (SELECT a.id FROM agents AS a JOIN n ON n.id = a.id ORDER BY a.id FOR NO KEY UPDATE OF a)
      UPDATE agents AS a SET runtime_problem = n.problem, updated_at = now() FROM n JOIN held ON held.id = n.id
      WHERE a.id = n.id RETURNING a.id AS "agentId", a.cluster_id AS "clusterId"`.execute(work.tx);
    await noteAgents(ports, work, rows);
  });
}
