/** What agents say about work under way: only the newest per command matters. */
import type { CommandProgress } from "@bowline/contract/agent";
import { sql } from "kysely";
import { transact, type Tx } from "../platform/transactions.ts";
import type { EnginePorts } from "./ports.ts";
import { type From, ownOf } from "./reports.ts";

/**
 * Keeps the newest progress per command. Of another attempt or an ended command: dropped. Commands in order of id, and
 * owners once at the end, because several replicas tell of one publish (T2).
 */
export async function recordProgress(ports: EnginePorts, reports: readonly From<CommandProgress>[]): Promise<void> {
  if (reports.length === 0) return;
  await transact(ports.db, async (work) => {
    const late: From<CommandProgress>[] = [];
    const progressed = new Map<string, string[]>();
    for (const from of reports.toSorted((a, b) => (a.message.commandId < b.message.commandId ? -1 : 1))) {
      const row = await writeProgress(work.tx, from);
      if (row === undefined) {
        late.push(from);
        continue;
      }
      const { commandId } = from.message;
      await ports.events.note(work, [
        { topic: "command", subjectId: commandId, organisationId: row.organisation_id, clusterId: row.cluster_id },
      ]);
      progressed.set(row.owner_kind, [...(progressed.get(row.owner_kind) ?? []), commandId]);
    }
    for (const [kind, commandIds] of progressed) await ports.owners.get(kind)?.progressed?.(work, commandIds);
    await ownOf(ports, work, late); // most of it is late; who speaks of another's is told
  });
}

/** Undefined: it is late, or about another's command. */
async function writeProgress(tx: Tx, { agentId, epoch, message }: From<CommandProgress>) {
  const workloads = message.workloads.map(({ workload, phase, percent, message: text }) => ({
    ...{ workload, phase, percent },
    message: text,
  }));
  const { rows } = await sql<{ organisation_id: string; cluster_id: string; owner_kind: string }>`
    INSERT INTO command_progress (command_id, attempt, phase, percent, message, workloads)
    SELECT c.id, ${message.attempt}, ${message.phase}, ${Math.min(100, message.percent)}, ${message.message},
      ${JSON.stringify(workloads)}::jsonb
    FROM commands AS c JOIN command_states AS s ON s.command_id = c.id
    WHERE c.id = ${message.commandId} AND s.agent_id = ${agentId} AND s.attempt = ${message.attempt}
      AND s.bound_epoch = ${epoch} AND s.state IN ('ASSIGNED', 'RUNNING', 'CANCELLING')
    ON CONFLICT (command_id) DO UPDATE SET attempt = excluded.attempt, phase = excluded.phase,
      percent = excluded.percent, message = excluded.message, workloads = excluded.workloads, updated_at = now()
    RETURNING (SELECT organisation_id FROM commands WHERE id = command_id), (SELECT cluster_id FROM commands WHERE id = command_id),
      (SELECT owner_kind FROM commands WHERE id = command_id)`.execute(tx);
  return rows[0];
}
