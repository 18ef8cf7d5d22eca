/** Sessions that are open, in the database: they serve, and move. Openings are in openings.ts, ends in ends.ts. */
import type { EnginePorts } from "../commands/index.ts";
import { transact, type Work } from "../platform/transactions.ts";

export interface OpenedSession {
  sessionId: string;
  epoch: number;
  clusterId: string;
  incarnation: number;
  journalWhole: boolean;
  /** Its Sync names everything that it has: what is missing there is lost (commands/afresh.ts, A3). */
  tellsAll: boolean;
}

/** The lowest and highest protocol version that this server speaks. */
export const protocolVersion = 1;

/** The session becomes SERVING, if it is still the agent's; a Sync that is told again finds it so. */
export async function serveSession(ports: EnginePorts, agentId: string, epoch: number): Promise<boolean> {
  return transact(ports.db, async (work) => {
    const { numUpdatedRows } = await work.tx
      .updateTable("sessions")
      .set({ state: "SERVING" })
      .where("agent_id", "=", agentId)
      .where("epoch", "=", epoch)
      .where("state", "<>", "ENDED")
      .executeTakeFirst();
    if (numUpdatedRows === 0n) return false;
    const agent = await work.tx
      .selectFrom("agents")
      .select("cluster_id")
      .where("id", "=", agentId)
      .executeTakeFirstOrThrow();
    await noteAgents(ports, work, [{ agentId, clusterId: agent.cluster_id }]);
    return true;
  });
}

/**
 * Names another replica for a poll session. False where it has ended, or where
 * a poll with this number or a higher one moved it before; with number 0 where
 * any poll did.
 */
export async function moveSession(
  ports: EnginePorts,
  session: { agentId: string; sessionId: string; epoch: number },
  replicaId: string,
  number: number,
): Promise<boolean> {
  const { agentId, sessionId, epoch } = session;
  return transact(ports.db, async (work) => {
    const moved = await work.tx
      .updateTable("sessions")
      .set({ replica_id: replicaId, poll_number: number })
      .where("agent_id", "=", agentId)
      .where("id", "=", sessionId)
      .where("epoch", "=", epoch)
      .where("state", "<>", "ENDED")
      .where("transport", "=", "POLL")
      .where("poll_number", number === 0 ? "=" : "<", number)
      .executeTakeFirst();
    if (moved.numUpdatedRows === 0n) return false;
    const agent = await work.tx
      .selectFrom("agents")
      .select("cluster_id")
      .where("id", "=", agentId)
      .executeTakeFirstOrThrow();
    await noteAgents(ports, work, [{ agentId, clusterId: agent.cluster_id }]);
    return true;
  });
}

/** Tells watches that these agents changed. */
export async function noteAgents(
  ports: EnginePorts,
  work: Work,
  agents: readonly { agentId: string; clusterId: string }[],
): Promise<void> {
  await ports.events.note(
    work,
    agents.map(({ agentId, clusterId }) => ({ topic: "agent", subjectId: agentId, clusterId })),
  );
  for (const { agentId } of agents) await ports.agentChanged?.(work, agentId);
}
