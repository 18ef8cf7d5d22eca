/**
 * Opening and ending sessions, in the database.
 *
 * E1: one row per agent. An opening takes the row first, adds 1 to the epoch,
 *     and unbinds what was bound to the epoch before.
 * E8: the key that signed the assertion is still the agent's under its lock:
 *     between the two an operator or the agent may have replaced it.
 */
import type { ConnectRequest } from "@bowline/contract/agent";
import { newId, problem } from "@bowline/kernel";
import { type RawBuilder, sql, type SqlBool } from "kysely";
import { bindCertificate, certificateProblemOf } from "../agents/index.ts";
import { type EnginePorts, sessionEnded } from "../commands/index.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { comesBack, type Conflict, conflictProblem, enterConflict } from "./conflict.ts";
import { enterDecision } from "./disputes.ts";
import type { EndReason, SessionTransport } from "./live.ts";

export interface OpenedSession {
  sessionId: string;
  epoch: number;
  clusterId: string;
  incarnation: number;
  journalWhole: boolean;
  /** Its Sync names everything that it has: what is missing there is lost (commands/afresh.ts, A3). */
  tellsAll: boolean;
}

/** An agent opens far fewer sessions in its life; above it is room for an integer of the database to grow. */
const largestEpoch = 2_000_000_000;

/** The lowest and highest protocol version that this server speaks. */
export const protocolVersion = 1;

/**
 * Opens a session for an agent whose assertion was verified. Throws
 * AGENT_REVOKED, AGENT_RETIRED, AGENT_KEY_REPLACED, ASSERTION_REPLAYED (with the floor), PROTOCOL_UNSUPPORTED.
 * An agent that awaits a decision may connect: H1 keeps commands from it.
 */
export async function openSession(
  ports: EnginePorts,
  facts: {
    agentId: string;
    counter: number;
    /** Of the key that signed the assertion. */
    thumbprint: string;
    replicaId: string;
    remoteAddress: string;
    /** Thumbprint of the connection's client certificate; empty: none. */
    clientCertificate: string;
    transport: SessionTransport;
    greeting: ConnectRequest;
  },
): Promise<OpenedSession> {
  const { agentId, greeting } = facts;
  if (greeting.protocolMin > protocolVersion || greeting.protocolMax < protocolVersion) {
    throw problem(
      "PROTOCOL_UNSUPPORTED",
      `This server speaks protocol ${protocolVersion}; the agent ${greeting.protocolMin} to ${greeting.protocolMax}.`,
    );
  }
  const opened = await transact(ports.db, async (work): Promise<OpenedSession | Conflict> => {
    const { tx } = work;
    const agent = await tx
      .selectFrom("agents")
      .select([
        "cluster_id",
        "state",
        "conflict",
        "signing_thumbprint",
        "runtime_identity",
        "journal_id",
        "journal_counter",
      ])
      .where("id", "=", agentId)
      .forNoKeyUpdate()
      .executeTakeFirst();
    if (agent === undefined) throw problem("ASSERTION_INVALID", "This server does not know the agent.");
    if (agent.state === "REVOKED") throw problem("AGENT_REVOKED");
    if (agent.state === "RETIRED") throw problem("AGENT_RETIRED");
    if (agent.signing_thumbprint !== facts.thumbprint)
      throw problem("AGENT_KEY_REPLACED", "The agent's key was replaced while this one dialled."); // E8
    if (agent.state === "CONFLICT") throw conflictProblem(agent.conflict);
    const before = await tx
      .selectFrom("sessions")
      .selectAll()
      .where("agent_id", "=", agentId)
      .forUpdate()
      .executeTakeFirst();
    if (before !== undefined && facts.counter <= before.assertion_counter) {
      throw problem("ASSERTION_REPLAYED", undefined, { metadata: { floor: String(before.assertion_counter) } });
    }
    const unproven = await certificateProblemOf(tx, agentId, facts.clientCertificate);
    if (unproven !== undefined) throw unproven;
    await bindCertificate(tx, agentId, facts.clientCertificate);
    const why = await conflictOf(work, agentId, agent.runtime_identity, before?.process_id ?? "", greeting);
    if (why !== undefined) {
      await enterConflict(ports, work, agentId, { ...facts, why, runtimeIdentity: greeting.runtimeIdentity });
      await noteAgent(ports, work, agentId, agent.cluster_id);
      return why;
    }
    const { incarnation } = await tx.selectFrom("installation").select("incarnation").executeTakeFirstOrThrow();
    if (greeting.incarnation > incarnation && agent.state === "ENROLLED")
      await enterDecision(ports, work, agentId, "INCARNATION_AHEAD");
    const epoch = epochAbove(before?.epoch ?? 0, greeting.highestEpoch);
    const sessionId = newId("session");
    const journalWhole = greeting.journalId === agent.journal_id && greeting.journalCounter >= agent.journal_counter;
    const row = {
      id: sessionId,
      epoch,
      assertion_counter: facts.counter,
      replica_id: facts.replicaId,
      process_id: greeting.processId,
      state: "SYNCING",
      remote_address: facts.remoteAddress,
      opened_at: sql<Date>`now()`,
      ended_at: null,
      end_reason: "",
      transport: facts.transport,
      journal_whole: journalWhole,
      poll_number: 0,
    };
    if (before === undefined)
      await tx
        .insertInto("sessions")
        .values({ agent_id: agentId, ...row })
        .execute();
    else await tx.updateTable("sessions").set(row).where("agent_id", "=", agentId).execute();
    if (before !== undefined && before.state !== "ENDED") {
      await sessionEnded(ports, work, agentId, before.epoch);
      // Here the newer stream takes the older one's place by itself (live.ts).
      if (before.replica_id !== facts.replicaId)
        work.after(() => ports.signals.close(agentId, "SUPERSEDED", before.replica_id));
    }
    await tx
      .updateTable("agents")
      .set({
        journal_id: greeting.journalId,
        journal_counter: greeting.journalCounter,
        agent_version: greeting.agentVersion,
        runtime_version: greeting.runtimeVersion,
        runtime_problem: greeting.runtimeProblem,
        reported_labels: JSON.stringify(greeting.labels),
        capabilities: JSON.stringify(greeting.capabilities),
        updated_at: sql`now()`,
      })
      .where("id", "=", agentId)
      .execute();
    await noteAgent(ports, work, agentId, agent.cluster_id);
    return {
      sessionId,
      epoch,
      clusterId: agent.cluster_id,
      incarnation,
      journalWhole,
      tellsAll: greeting.stateDigest !== "",
    };
  });
  // Refused after the commit: what was found out stays.
  if (typeof opened === "string") throw conflictProblem(opened);
  return opened;
}

/** Above every epoch of the agent's, also of one that another history gave it (H2). */
function epochAbove(known: number, highestOfAgent: number): number {
  if (highestOfAgent > largestEpoch) {
    throw problem("PROTOCOL_VIOLATION", `The agent's highest epoch, ${highestOfAgent}, is none that a server gave.`);
  }
  return Math.max(known, highestOfAgent) + 1;
}

async function conflictOf(
  work: Work,
  agentId: string,
  enrolledRuntime: string,
  processBefore: string,
  greeting: ConnectRequest,
): Promise<Conflict | undefined> {
  if (greeting.runtimeIdentity !== enrolledRuntime) return "OTHER_RUNTIME";
  return (await comesBack(work, agentId, processBefore, greeting.processId)) ? "TWO_PROCESSES" : undefined;
}

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
    await noteAgent(ports, work, agentId, agent.cluster_id);
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
    await noteAgent(ports, work, agentId, agent.cluster_id);
    return true;
  });
}

/**
 * Ends a session if it is still the agent's, and unbinds what was bound to it.
 * `only.held`: only if the row still names that replica, since that poll; a
 * poll session moves, and comes back. `only.while`: only if that holds as well.
 */
export async function endSession(
  ports: EnginePorts,
  agentId: string,
  epoch: number,
  reason: EndReason,
  only: { held?: { by: string; since: number }; while?: RawBuilder<SqlBool> } = {},
): Promise<void> {
  await transact(ports.db, async (work) => {
    let ending = work.tx
      .updateTable("sessions")
      .set({ state: "ENDED", ended_at: sql<Date>`now()`, end_reason: reason })
      .where("agent_id", "=", agentId)
      .where("epoch", "=", epoch)
      .where("state", "<>", "ENDED");
    const { held } = only;
    if (held !== undefined) ending = ending.where("replica_id", "=", held.by).where("poll_number", "=", held.since);
    if (only.while !== undefined) ending = ending.where(only.while);
    const { numUpdatedRows } = await ending.executeTakeFirst();
    if (numUpdatedRows === 0n) return;
    await sessionEnded(ports, work, agentId, epoch);
    const agent = await work.tx.selectFrom("agents").select("cluster_id").where("id", "=", agentId).executeTakeFirst();
    await noteAgent(ports, work, agentId, agent?.cluster_id ?? "");
  });
}

async function noteAgent(ports: EnginePorts, work: Work, agentId: string, clusterId: string): Promise<void> {
  await ports.events.note(work, [{ topic: "agent", subjectId: agentId, clusterId }]);
  await ports.agentChanged?.(work, agentId);
}
