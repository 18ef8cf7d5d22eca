/** What accept and release share: an operator's word brings an agent back to ENROLLED. */
import { toJson } from "@bufbuild/protobuf";
import { type Agent, AgentSchema } from "@bowline/contract/agents";
import { lockClusterForChange } from "../clusters/index.ts";
import { audit } from "../platform/audit-trail.ts";
import type { Caller } from "../platform/context.ts";
import { transact, type Work } from "../platform/transactions.ts";
import { agentOf, type AgentPorts, type AgentRow, goneProblem } from "./model.ts";
import { getAgent, lockAgent } from "./queries.ts";

/** What the audit event says beside the agent itself. */
export interface Settled {
  before?: object;
  after: object;
}

/**
 * `settle` does it to the agent, whose row and cluster are held, and throws where this is not its way out. Nothing
 * happens to one that is ENROLLED. Throws NOT_FOUND, AGENT_REVOKED, AGENT_RETIRED.
 */
export async function settleAgent(
  ports: AgentPorts,
  caller: Caller,
  idOrName: string,
  action: "agent.accept" | "agent.release",
  settle: (work: Work, before: AgentRow) => Promise<Settled>,
): Promise<Agent> {
  const { id, cluster_id: clusterId } = await getAgent(ports.db, caller.principal, idOrName);
  return transact(ports.db, async (work) => {
    await lockClusterForChange(work.tx, clusterId);
    const before = await lockAgent(work.tx, caller.principal, id);
    if (before.state === "ENROLLED") return agentOf(before, ports.presence);
    const gone = goneProblem(before);
    if (gone !== undefined) throw gone;
    const settled = await settle(work, before);
    const after = await lockAgent(work.tx, caller.principal, id);
    await audit(ports.events, work, caller, {
      action,
      resourceKind: "agent",
      resourceId: id,
      organisationId: "",
      before: { ...(toJson(AgentSchema, agentOf(before)) as object), ...settled.before },
      after: { ...(toJson(AgentSchema, agentOf(after)) as object), ...settled.after },
    });
    await ports.events.note(work, [{ topic: "agent", subjectId: id, clusterId }]);
    await ports.agentChanged?.(work, id);
    return agentOf(after, ports.presence);
  });
}
