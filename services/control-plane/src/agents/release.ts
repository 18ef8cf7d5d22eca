/** The way out of CONFLICT: an operator says that the next one to connect is the agent. */
import { toJson } from "@bufbuild/protobuf";
import { type Agent, AgentSchema } from "@bowline/contract/agents";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { lockClusterForChange } from "../clusters/index.ts";
import { audit } from "../platform/audit-trail.ts";
import type { Caller } from "../platform/context.ts";
import { transact } from "../platform/transactions.ts";
import { agentOf, type AgentPorts } from "./model.ts";
import { getAgent, lockAgent } from "./queries.ts";

/** Throws NOT_FOUND, AGENT_REVOKED, AGENT_RETIRED, AWAITING_DECISION. Releasing twice is no error. */
export async function releaseAgent(
  ports: AgentPorts,
  caller: Caller,
  request: { id: string; acceptRuntimeIdentity: boolean },
): Promise<Agent> {
  const { id, cluster_id: clusterId } = await getAgent(ports.db, caller.principal, request.id);
  return transact(ports.db, async (work) => {
    await lockClusterForChange(work.tx, clusterId);
    const before = await lockAgent(work.tx, caller.principal, id);
    if (before.state === "ENROLLED") return agentOf(before, ports.presence);
    if (before.state === "REVOKED") throw problem("AGENT_REVOKED");
    if (before.state === "RETIRED") throw problem("AGENT_RETIRED");
    if (before.state !== "CONFLICT") throw problem("AWAITING_DECISION");
    const moves = request.acceptRuntimeIdentity && before.conflict === "OTHER_RUNTIME";
    await work.tx
      .updateTable("agents")
      .set({
        state: "ENROLLED",
        conflict: "",
        conflict_runtime_identity: "",
        ...(moves ? { runtime_identity: before.conflict_runtime_identity } : {}),
        version: sql`version + 1`,
        updated_at: sql`now()`,
      })
      .where("id", "=", id)
      .execute();
    // The next process takes nobody's place.
    await work.tx.updateTable("sessions").set({ process_id: "" }).where("agent_id", "=", id).execute();
    await work.tx.deleteFrom("displaced_processes").where("agent_id", "=", id).execute();
    // An engine that took another's place has nothing of it. The conflict has ended the session.
    const converged = moves
      ? await ports.agentAfresh(work, { id, epoch: undefined, createdBy: caller.principal.id })
      : 0;
    const after = await lockAgent(work.tx, caller.principal, id);
    await audit(ports.events, work, caller, {
      action: "agent.release",
      resourceKind: "agent",
      resourceId: id,
      organisationId: "",
      before: toJson(AgentSchema, agentOf(before)),
      after: {
        ...(toJson(AgentSchema, agentOf(after)) as object),
        acceptedRuntimeIdentity: moves,
        deploymentsConvergedAgain: converged,
      },
    });
    await ports.events.note(work, [{ topic: "agent", subjectId: id, clusterId }]);
    await ports.agentChanged?.(work, id);
    return agentOf(after, ports.presence);
  });
}
