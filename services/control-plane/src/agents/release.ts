/** The way out of CONFLICT: an operator says that the next one to connect is the agent. */
import type { Agent } from "@bowline/contract/agents";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Caller } from "../platform/context.ts";
import type { AgentPorts } from "./model.ts";
import { settleAgent } from "./settle.ts";

/** Throws NOT_FOUND, AGENT_REVOKED, AGENT_RETIRED, AWAITING_DECISION. Releasing twice is no error. */
export function releaseAgent(
  ports: AgentPorts,
  caller: Caller,
  request: { id: string; acceptRuntimeIdentity: boolean },
): Promise<Agent> {
  return settleAgent(ports, caller, request.id, "agent.release", async (work, before) => {
    if (before.state !== "CONFLICT") throw problem("AWAITING_DECISION");
    const { id } = before;
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
    return { after: { acceptedRuntimeIdentity: moves, deploymentsConvergedAgain: converged } };
  });
}
