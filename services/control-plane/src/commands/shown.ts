/** Commands as the API shows them, from rows that queries.ts reads. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Command, Command_Kind, Command_State, CommandSchema } from "@bowline/contract/commands";
import type { CommandState } from "@bowline/db";
import { accountNames } from "../identity/index.ts";
import type { EnginePorts } from "./ports.ts";

export interface CommandRow {
  id: string;
  agent_id: string;
  agent: string | null;
  cluster_id: string;
  deployment_id: string;
  generation: number;
  product_publish_id: string;
  organisation_id: string;
  max_retries: number;
  run_timeout_ms: number;
  retry_of: string;
  created_at: Date;
  created_by: string;
  reduces: boolean;
  is_removal: boolean;
  owner_kind: string;
  owner_id: string;
  revision: number;
  rollout_id: string;
  state: CommandState;
  reason: string;
  message: string;
  priority: number;
  attempt: number;
  failures: number;
  superseded_by: string;
  late_outcome: string;
  due_at: Date | null;
  assigned_at: Date | null;
  ended_at: Date | null;
  phase: string | null;
  percent: number | null;
  progress_message: string | null;
}

/** In the same order. */
export async function commandsOf(
  { db, owners }: Pick<EnginePorts, "db" | "owners">,
  rows: readonly CommandRow[],
): Promise<Command[]> {
  if (rows.length === 0) return [];
  const people = await accountNames(
    db,
    rows.map((row) => row.created_by),
  );
  const names = new Map<string, string>();
  for (const [kind, own] of Map.groupBy(rows, (row) => row.owner_kind)) {
    const ids = [...new Set(own.map((row) => row.owner_id))];
    for (const [id, name] of (await owners.get(kind)?.names?.(db, ids)) ?? []) names.set(id, name);
  }
  return rows.map((row) => commandOf(row, { owner: names.get(row.owner_id), person: people.get(row.created_by) }));
}

function commandOf(row: CommandRow, called: { owner: string | undefined; person: string | undefined }): Command {
  const running = row.state === "ASSIGNED" || row.state === "RUNNING" || row.state === "CANCELLING";
  const isOfStack = row.owner_kind === "stack";
  const init: MessageInitShape<typeof CommandSchema> = {
    id: row.id,
    agentId: row.agent_id,
    agent: row.agent ?? "",
    clusterId: row.cluster_id,
    deploymentId: row.deployment_id,
    generation: row.generation,
    productPublishId: row.product_publish_id,
    state: Command_State[row.state],
    reason: row.reason,
    message: row.message,
    priority: row.priority,
    attempt: row.attempt,
    failures: row.failures,
    maxRetries: row.max_retries,
    runTimeout: durationFromMs(row.run_timeout_ms),
    supersededBy: row.superseded_by,
    retryOf: row.retry_of,
    lateOutcome: row.late_outcome,
    createdAt: timestampFromDate(row.created_at),
    createdBy: row.created_by,
    createdByName: called.person ?? "",
    reduces: row.reduces,
    organisationId: row.organisation_id,
    kind: row.is_removal ? Command_Kind.REMOVE : row.reduces ? Command_Kind.STOP : Command_Kind.APPLY,
    ownerKind: row.owner_kind,
    stackId: isOfStack ? row.owner_id : "",
    stack: isOfStack ? (called.owner ?? "") : "",
    revision: row.revision,
    rolloutId: row.rollout_id,
  };
  if (running)
    Object.assign(init, {
      progressPhase: row.phase ?? "",
      progressPercent: row.percent ?? 0,
      progressMessage: row.progress_message ?? "",
    });
  if (row.state === "RETRY_WAIT" && row.due_at !== null) init.dueAt = timestampFromDate(row.due_at);
  if (row.assigned_at !== null) init.assignedAt = timestampFromDate(row.assigned_at);
  if (row.ended_at !== null) {
    init.endedAt = timestampFromDate(row.ended_at);
    init.duration = durationFromMs(Math.max(0, row.ended_at.getTime() - row.created_at.getTime()));
  }
  return create(CommandSchema, init);
}
