/** Reads of commands for people. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Command, Command_State, CommandSchema, type ListCommandsRequest } from "@bowline/contract/commands";
import type { Database } from "@bowline/db";
import { type Kysely, sql } from "kysely";
import type { Principal } from "../platform/context.ts";
import { seesAll } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";

/** Filters that a list and a watch share. */
export type CommandFilter = Partial<
  Pick<ListCommandsRequest, "clusterId" | "agentId" | "deploymentId" | "productPublishId" | "states">
> & {
  ids?: readonly string[];
  openOnly?: boolean;
};

function select(db: Kysely<Database>, principal: Principal, filter: CommandFilter) {
  let query = db
    .selectFrom("commands as c")
    .innerJoin("command_states as s", "s.command_id", "c.id")
    .leftJoin("command_progress as p", (join) =>
      join.onRef("p.command_id", "=", "c.id").onRef("p.attempt", "=", "s.attempt"),
    )
    .leftJoin("agents as a", "a.id", "c.agent_id");
  if (!seesAll(principal)) query = query.where("c.organisation_id", "=", principal.organisationId);
  if (filter.clusterId) {
    query = query.where((where) =>
      where.or([
        where("c.cluster_id", "=", filter.clusterId ?? ""),
        where(
          "c.cluster_id",
          "in",
          where
            .selectFrom("clusters")
            .select("id")
            .where("name", "=", filter.clusterId ?? ""),
        ),
      ]),
    );
  }
  if (filter.agentId)
    query = query.where((where) =>
      where.or([where("c.agent_id", "=", filter.agentId ?? ""), where("a.name", "=", filter.agentId ?? "")]),
    );
  if (filter.deploymentId) query = query.where("c.deployment_id", "=", filter.deploymentId);
  if (filter.productPublishId) query = query.where("c.product_publish_id", "=", filter.productPublishId);
  if (filter.states?.length) query = query.where(sql<string>`s.state`, "in", filter.states.map(stateName));
  if (filter.openOnly)
    query = query.where("s.state", "in", ["BLOCKED", "READY", "ASSIGNED", "RUNNING", "CANCELLING", "RETRY_WAIT"]);
  if (filter.ids !== undefined) query = query.where("c.id", "in", [...filter.ids]);
  return query;
}

function columns(query: ReturnType<typeof select>) {
  return query.select([
    "c.id",
    "c.agent_id",
    "a.name as agent",
    "c.cluster_id",
    "c.deployment_id",
    "c.generation",
    "c.product_publish_id",
    "c.organisation_id",
    "c.max_retries",
    "c.run_timeout_ms",
    "c.retry_of",
    "c.created_at",
    "c.created_by",
    "c.reduces",
    "s.state",
    "s.reason",
    "s.message",
    "s.priority",
    "s.attempt",
    "s.failures",
    "s.superseded_by",
    "s.late_outcome",
    "s.due_at",
    "s.assigned_at",
    "s.ended_at",
    "p.phase",
    "p.percent",
    "p.message as progress_message",
  ]);
}

type Row = Awaited<ReturnType<ReturnType<typeof columns>["execute"]>>[number];

/** Commands by id that the principal may see. */
export async function readCommands(
  db: Kysely<Database>,
  principal: Principal,
  filter: CommandFilter,
): Promise<Command[]> {
  return (
    await columns(select(db, principal, filter))
      .orderBy("c.created_at")
      .orderBy("c.id")
      .limit(10_000)
      .execute()
  ).map(commandOf);
}

export async function listCommands(db: Kysely<Database>, principal: Principal, request: ListCommandsRequest) {
  const size = pageSize(request.pageSize);
  const after = pageKey("commands", request.pageToken, 1);
  let query = columns(select(db, principal, request));
  if (after !== undefined) query = query.where("c.id", "<", after[0] ?? "");
  const rows = await query
    .orderBy("c.id", "desc")
    .limit(size + 1)
    .execute();
  const page = cutPage(rows, size, "commands", (row) => [row.id]);
  const total = request.returnTotalSize
    ? (
        await select(db, principal, request)
          .select(sql<number>`count(*)::int`.as("count"))
          .executeTakeFirst()
      )?.count
    : undefined;
  return { commands: page.rows.map(commandOf), nextPageToken: page.nextPageToken, totalSize: total };
}

function commandOf(row: Row): Command {
  const running = row.state === "ASSIGNED" || row.state === "RUNNING" || row.state === "CANCELLING";
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
    reduces: row.reduces,
    organisationId: row.organisation_id,
  };
  if (running)
    Object.assign(init, {
      progressPhase: row.phase ?? "",
      progressPercent: row.percent ?? 0,
      progressMessage: row.progress_message ?? "",
    });
  if (row.state === "RETRY_WAIT" && row.due_at !== null) init.dueAt = timestampFromDate(row.due_at);
  if (row.assigned_at !== null) init.assignedAt = timestampFromDate(row.assigned_at);
  if (row.ended_at !== null) init.endedAt = timestampFromDate(row.ended_at);
  return create(CommandSchema, init);
}

function stateName(state: Command_State): string {
  return Object.entries(Command_State).find(([, value]) => value === state)?.[0] ?? "";
}
