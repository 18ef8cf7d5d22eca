/**
 * How agents leave.
 *
 * R1: once a revocation or a retirement is committed the agent's key opens nothing, and nothing
 *     is bound to its session; the word to its replica is a hint that makes the
 *     stream end sooner.
 * R2: the cluster's row is held against whoever places something, so that
 *     nothing comes to an agent after what it owes was settled.
 */
import { toJson } from "@bufbuild/protobuf";
import { type Agent, AgentSchema } from "@bowline/contract/agents";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { lockClusterForChange, lockClusterForLeaving } from "../clusters/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller } from "../platform/context.ts";
import { guardEtag } from "../platform/etags.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { countPresent, forgetAgent } from "./history.ts";
import { agentOf, type AgentPorts, type AgentRow, type AgentState, agentStates, connectivityOf } from "./model.ts";
import { getAgent, lockAgent } from "./queries.ts";

/** Ends an agent's session and refuses its key for good. Revoking twice is no error. */
export async function revokeAgent(ports: AgentPorts, caller: Caller, idOrName: string): Promise<Agent> {
  const { id, cluster_id: clusterId } = await getAgent(ports.db, caller.principal, idOrName);
  return transact(ports.db, async (work) => {
    await lockClusterForLeaving(work.tx, clusterId);
    const before = await lockAgent(work.tx, caller.principal, id);
    if (agentStates[before.state as AgentState].gone) return agentOf(before, ports.presence);
    await revokeLocked(ports, work, caller, before);
    return agentOf(await lockAgent(work.tx, caller.principal, id), ports.presence);
  });
}

/**
 * Settles what a host owes that is gone for good. Throws AGENT_ONLINE unless forced. Retiring twice is no error; a
 * revoked agent may be retired, and then its removals end too.
 */
export async function retireAgent(
  ports: AgentPorts,
  caller: Caller,
  request: { id: string; force: boolean },
): Promise<Agent> {
  const { id, cluster_id: clusterId } = await getAgent(ports.db, caller.principal, request.id);
  return transact(ports.db, async (work) => {
    await lockClusterForLeaving(work.tx, clusterId);
    const before = await lockAgent(work.tx, caller.principal, id);
    if (before.state === "RETIRED") return agentOf(before, ports.presence);
    const { is } = connectivityOf(before, ports.presence.lastHeard(id));
    if (is === "ONLINE" && !request.force) {
      throw problem(
        "AGENT_ONLINE",
        `The agent ${before.name} is connected. Stop it first, or revoke it; with force it is retired as it is.`,
      );
    }
    await endLife(ports, work, before, "RETIRED");
    const settled = await ports.agentRetired(work, id);
    await noteGone(ports, work, caller, before, "RETIRED", { settled });
    return agentOf(await lockAgent(work.tx, caller.principal, id), ports.presence);
  });
}

/** The caller holds the agent's row. */
export async function revokeLocked(ports: AgentPorts, work: Work, caller: Caller, before: AgentRow): Promise<void> {
  await endLife(ports, work, before, "REVOKED");
  await ports.agentGone(work, before.id, { retired: false });
  await noteGone(ports, work, caller, before, "REVOKED", {});
}

type End = "REVOKED" | "RETIRED";

/** R1: the state, and the end of the session. */
async function endLife(ports: AgentPorts, work: Work, before: AgentRow, end: End): Promise<void> {
  await work.tx
    .updateTable("agents")
    .set({ state: end, version: sql`version + 1`, updated_at: sql`now()` })
    .where("id", "=", before.id)
    .execute();
  const session = await work.tx
    .updateTable("sessions")
    .set({ state: "ENDED", ended_at: sql<Date>`now()`, end_reason: end })
    .where("agent_id", "=", before.id)
    .where("state", "<>", "ENDED")
    .returning("epoch")
    .executeTakeFirst();
  if (session !== undefined) await ports.sessionEnded(work, before.id, session.epoch);
}

/** Tells who follows agents, and the stream if there is one. */
async function noteGone(
  ports: AgentPorts,
  work: Work,
  caller: Caller,
  before: AgentRow,
  end: End,
  more: object,
): Promise<void> {
  await ports.agentChanged?.(work, before.id);
  const after = agentOf({ ...before, state: end, version: before.version + 1 });
  await audit(ports.events, work, caller, {
    action: end === "REVOKED" ? "agent.revoke" : "agent.retire",
    resourceKind: "agent",
    resourceId: before.id,
    organisationId: "",
    before: toJson(AgentSchema, agentOf(before)),
    after: { ...(toJson(AgentSchema, after) as object), ...more },
  });
  await ports.events.note(work, [{ topic: "agent", subjectId: before.id, clusterId: before.cluster_id }]);
  work.after(() => ports.closeSession(before.id, end));
}

/** Throws NOT_FOUND, STALE_ETAG, AGENT_NOT_REVOKED, AGENT_NOT_EMPTY. */
export async function deleteAgent(
  ports: AgentPorts,
  caller: Caller,
  request: { id: string; etag: string },
): Promise<void> {
  const { id, cluster_id: clusterId } = await getAgent(ports.db, caller.principal, request.id);
  await transact(ports.db, async (work) => {
    await lockClusterForChange(work.tx, clusterId);
    const row = await lockAgent(work.tx, caller.principal, id);
    guardEtag(request.etag, row.version);
    if (!agentStates[row.state as AgentState].gone) {
      throw problem("AGENT_NOT_REVOKED", `The agent ${row.name} is ${row.state}; revoke or retire it first.`, {
        metadata: { state: row.state },
      });
    }
    const present = await countPresent(work.tx, { agentId: id });
    if (present > 0) {
      throw problem("AGENT_NOT_EMPTY", `${present} deployments of the agent ${row.name} are not known to be gone.`, {
        metadata: { deployments: String(present) },
      });
    }
    await forgetAgent(work.tx, id);
    await audit(ports.events, work, caller, {
      action: "agent.delete",
      resourceKind: "agent",
      resourceId: id,
      organisationId: "",
      before: toJson(AgentSchema, agentOf(row)),
    });
    await ports.events.note(work, [{ topic: "agent", subjectId: id, clusterId }]);
  });
}
