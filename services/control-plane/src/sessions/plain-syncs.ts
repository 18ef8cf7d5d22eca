/**
 * The end of a Sync that changes nothing, in sets: a fleet that comes back at
 * once shares commits. As a rule an agent comes back with what it should have,
 * and nothing under way; any other is answered by itself (sync.ts).
 *
 * Y1: what makes a Sync plain is found out under the locks of its agent and its
 *     session, in the transaction in which the session begins to serve: nothing
 *     is claimed for it before.
 * Y2: a set waits for nobody's row; whose row is held is not plain.
 */
import type { Sync } from "@bowline/contract/agent";
import { isProblem, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { type EnginePorts, unsettled } from "../commands/index.ts";
import { isDatabaseAway } from "../platform/problems.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { createBatcher } from "../platform/batches.ts";
import { findDisputes } from "./disputes.ts";
import { noteAgents } from "./open.ts";

export interface ToldSync {
  agentId: string;
  epoch: number;
  journalWhole: boolean;
  tellsAll: boolean;
  pages: readonly Sync[];
}

export interface PlainSyncs {
  /** True: the session serves, and the reply has nothing to decide. False: it is not plain, or not the agent's any more. */
  serve(sync: ToldSync): Promise<boolean>;
}

/** Above what openings let in at a time (dials.ts), several times over. */
const maxWaiting = 4_096;

export function createPlainSyncs(engine: () => EnginePorts): PlainSyncs {
  const sets = createBatcher<ToldSync, boolean>((syncs) => serveSet(engine(), syncs), {
    maxWaiting,
    overloaded: () => problem("OVERLOADED", "Too many agents come back at this moment.", { retryAfterMs: 1_000 }),
    everybodys: (error) => isDatabaseAway(error) || isProblem(error, "COMMIT_UNKNOWN"),
  });
  return {
    serve: async (sync) => {
      const { pages } = sync;
      if (pages.some(({ journal, results }) => journal.length > 0 || results.length > 0)) return false;
      return sets.add(sync);
    },
  };
}

async function serveSet(ports: EnginePorts, syncs: readonly ToldSync[]): Promise<boolean[]> {
  const plain = await transact(ports.db, async (work) => {
    const held = await lock(work, syncs);
    const clusters = new Map(held.map(({ sync, clusterId }) => [sync.agentId, clusterId]));
    let mine = held.map(({ sync }) => sync);
    if (mine.length > 0) {
      const disputes = await findDisputes(work, mine);
      mine = mine.filter(({ agentId }) => !disputes.has(agentId));
      const not = await unsettled(ports, work, mine.map(asTold));
      mine = mine.filter(({ agentId }) => !not.has(agentId));
    }
    if (mine.length === 0) return new Set<ToldSync>();
    await work.tx
      .updateTable("sessions")
      .set({ state: "SERVING" })
      .where("agent_id", "=", sql<string>`ANY(${mine.map(({ agentId }) => agentId)}::text[])`)
      .execute();
    const changed = mine.map(({ agentId }) => ({ agentId, clusterId: clusters.get(agentId) ?? "" }));
    await noteAgents(ports, work, changed);
    return new Set(mine);
  });
  return syncs.map((sync) => plain.has(sync));
}

/** Those whose agent is ENROLLED and whose session is the agent's, with both rows locked (T2, Y2). */
async function lock(work: Work, syncs: readonly ToldSync[]): Promise<{ sync: ToldSync; clusterId: string }[]> {
  const agents = await sql<{ id: string; cluster_id: string }>`
    SELECT id, cluster_id FROM agents WHERE id = ANY(${syncs.map(({ agentId }) => agentId)}::text[]) AND state = 'ENROLLED'
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED`.execute(work.tx);
  const clusters = new Map(agents.rows.map((row) => [row.id, row.cluster_id]));
  const sessions = await sql<{ agent_id: string; epoch: number }>`
    SELECT agent_id, epoch FROM sessions WHERE agent_id = ANY(${[...clusters.keys()]}::text[]) AND state <> 'ENDED'
    ORDER BY agent_id FOR UPDATE SKIP LOCKED`.execute(work.tx);
  const epochs = new Map(sessions.rows.map((row) => [row.agent_id, row.epoch]));
  return syncs.flatMap((sync) => {
    const clusterId = clusters.get(sync.agentId);
    return clusterId === undefined || epochs.get(sync.agentId) !== sync.epoch ? [] : [{ sync, clusterId }];
  });
}

function asTold({ agentId, journalWhole, tellsAll, pages }: ToldSync) {
  const told = pages.flatMap((page) => [...page.deployments, ...page.highest]);
  return { agentId, journalWhole, tellsAll, told };
}
