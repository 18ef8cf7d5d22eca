/**
 * Two that claim to be one agent. The newest process wins, once: where the one
 * that it displaced comes back they would throw each other out without end, so
 * both are refused until an operator decides. So is an agent that comes with
 * another runtime than the one that enrolled: its key was copied, or its disk.
 */
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { type EnginePorts, sessionEnded } from "../commands/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { systemPrincipal } from "../platform/context.ts";
import type { Work } from "../platform/transactions.ts";

export type Conflict = "TWO_PROCESSES" | "OTHER_RUNTIME";

/** A process that comes back later than this after another took its place had no hand in a fight. */
const returnWithin = "5 minutes";

/**
 * Notes that processes took others' places. Those agents whose process was displaced itself just before: A, B, A. The
 * caller holds the sessions' rows.
 */
export async function comeBack(
  work: Work,
  changes: readonly { agentId: string; from: string; to: string }[],
): Promise<Set<string>> {
  const changed = changes.filter(({ from, to }) => from !== to && from !== "" && to !== "");
  if (changed.length === 0) return new Set();
  const agentIds = changed.map(({ agentId }) => agentId);
  await sql`DELETE FROM displaced_processes WHERE agent_id = ANY(${agentIds}::text[])
    AND displaced_at < now() - ${returnWithin}::interval`.execute(work.tx);
  const known = await sql<{ agent_id: string }>`
    SELECT d.agent_id FROM displaced_processes AS d
    JOIN unnest(${agentIds}::text[], ${changed.map(({ to }) => to)}::text[]) AS n (agent_id, process_id)
    ON n.agent_id = d.agent_id AND n.process_id = d.process_id`.execute(work.tx);
  const back = new Set(known.rows.map((row) => row.agent_id));
  const displaced = changed.filter(({ agentId }) => !back.has(agentId));
  if (displaced.length > 0)
    await sql`
      INSERT INTO displaced_processes (agent_id, process_id)
      SELECT * FROM unnest(${displaced.map(({ agentId }) => agentId)}::text[], ${displaced.map(({ from }) => from)}::text[])
      ON CONFLICT (agent_id, process_id) DO UPDATE SET displaced_at = now()`.execute(work.tx);
  return back;
}

/** Puts an agent into CONFLICT and ends its session. The caller holds the agent's row and the session's. */
export async function enterConflict(
  ports: EnginePorts,
  work: Work,
  agentId: string,
  facts: { why: Conflict; runtimeIdentity: string; remoteAddress: string; counter: number },
): Promise<void> {
  const { why, runtimeIdentity, remoteAddress } = facts;
  await work.tx
    .updateTable("agents")
    .set({
      state: "CONFLICT",
      conflict: why,
      conflict_runtime_identity: why === "OTHER_RUNTIME" ? runtimeIdentity : "",
      version: sql`version + 1`,
      updated_at: sql`now()`,
    })
    .where("id", "=", agentId)
    .execute();
  await work.tx
    .updateTable("sessions")
    .set({ assertion_counter: facts.counter })
    .where("agent_id", "=", agentId)
    .execute();
  const session = await work.tx
    .updateTable("sessions")
    .set({ state: "ENDED", ended_at: sql<Date>`now()`, end_reason: "CONFLICT" })
    .where("agent_id", "=", agentId)
    .where("state", "<>", "ENDED")
    .returning("epoch")
    .executeTakeFirst();
  if (session !== undefined) await sessionEnded(ports, work, agentId, session.epoch);
  await audit(
    ports.events,
    work,
    { principal: systemPrincipal, request: { requestId: "", remoteAddress } },
    {
      action: "agent.conflict",
      resourceKind: "agent",
      resourceId: agentId,
      organisationId: "",
      after: { state: "CONFLICT", conflict: why },
      outcome: "AGENT_CONFLICT",
    },
  );
  work.after(() => ports.signals.close(agentId, "CONFLICT"));
}

/** What both are refused with. */
export function conflictProblem(why: string) {
  return problem(
    "AGENT_CONFLICT",
    why === "OTHER_RUNTIME"
      ? "The runtime is not the one that enrolled; an operator releases or revokes the agent."
      : "Two processes have this agent's identity; an operator releases or revokes the agent.",
    { metadata: { conflict: why } },
  );
}
