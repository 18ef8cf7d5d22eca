/** Reads of commands for people. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Command, Command_State, CommandSchema, type ListCommandsRequest } from "@bowline/contract/commands";
import { type CommandState, type Database, openCommandStates, sqlList } from "@bowline/db";
import { type Kysely, type RawBuilder, sql } from "kysely";
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

interface Row {
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

/** Open ones, those that ended lately, and the newest of each deployment. */
const newestOnes = sql`commands AS c JOIN command_states AS s ON s.command_id = c.id
  LEFT JOIN command_progress AS p ON p.command_id = c.id AND p.attempt = s.attempt`;
/** Those that have left (history.ts), under the same names. */
const leftOnes = sql`ended_commands AS s JOIN LATERAL (SELECT s.*) AS c ON true
  LEFT JOIN LATERAL (SELECT NULL::text AS phase, NULL::smallint AS percent, NULL::text AS message) AS p ON true`;

const columns = sql`c.id, c.agent_id, a.name AS agent, c.cluster_id, c.deployment_id, c.generation, c.product_publish_id,
  c.organisation_id, c.max_retries, c.run_timeout_ms, c.retry_of, c.created_at, c.created_by, c.reduces, s.state, s.reason,
  s.message, s.priority, s.attempt, s.failures, s.superseded_by, s.late_outcome, s.due_at, s.assigned_at, s.ended_at,
  p.phase, p.percent, p.message AS progress_message`;

function conditions(principal: Principal, filter: CommandFilter): RawBuilder<unknown> {
  const all = [sql`true`];
  const { clusterId, agentId, deploymentId, productPublishId, states, ids } = filter;
  if (!seesAll(principal)) all.push(sql`c.organisation_id = ${principal.organisationId}`);
  if (clusterId)
    all.push(sql`c.cluster_id IN (SELECT id FROM clusters WHERE id = ${clusterId} OR name = ${clusterId})`);
  if (agentId) all.push(sql`c.agent_id IN (SELECT id FROM agents WHERE id = ${agentId} OR name = ${agentId})`);
  if (deploymentId) all.push(sql`c.deployment_id = ${deploymentId}`);
  if (productPublishId) all.push(sql`c.product_publish_id = ${productPublishId}`);
  if (states?.length) all.push(sql`s.state = ANY(${states.map(stateName)})`);
  // In words that the index of open commands has: with parameters no plan may use it.
  if (filter.openOnly) all.push(sql`s.state IN (${sql.raw(sqlList(openCommandStates))})`);
  if (ids !== undefined) all.push(sql`c.id = ANY(${[...ids]})`);
  return sql.join(all, sql` AND `);
}

/** Where to look: nothing that is open has left. */
function placesOf(filter: CommandFilter): readonly RawBuilder<unknown>[] {
  const states = (filter.states ?? []).map(stateName);
  const openOnly = filter.openOnly === true || (states.length > 0 && states.every((state) => openStates.has(state)));
  return openOnly ? [newestOnes] : [newestOnes, leftOnes];
}

const openStates: ReadonlySet<string> = new Set(openCommandStates);

/** From all these places in one statement: what leaves meanwhile is seen in one of them. */
async function select(
  db: Kysely<Database>,
  places: readonly RawBuilder<unknown>[],
  where: RawBuilder<unknown>,
  order: RawBuilder<unknown>,
): Promise<Row[]> {
  const parts = places.map(
    (from) =>
      sql`(SELECT ${columns} FROM ${from} LEFT JOIN agents AS a ON a.id = c.agent_id WHERE ${where} ORDER BY ${order})`,
  );
  return (await sql<Row>`${sql.join(parts, sql` UNION ALL `)}`.execute(db)).rows;
}

/** Commands that the principal may see, the oldest first. */
export async function readCommands(
  db: Kysely<Database>,
  principal: Principal,
  filter: CommandFilter,
): Promise<Command[]> {
  const where = conditions(principal, filter);
  const order = sql`c.created_at, c.id LIMIT ${mostAtOnce}`;
  let rows: Row[];
  if (filter.ids !== undefined) {
    // A watch reads them one by one as they change: those that have left are the exception.
    rows = await select(db, [newestOnes], where, order);
    if (rows.length < filter.ids.length) rows = await select(db, [newestOnes, leftOnes], where, order);
  } else rows = await select(db, placesOf(filter), where, order);
  return rows
    .toSorted((a, b) => a.created_at.getTime() - b.created_at.getTime() || (a.id < b.id ? -1 : 1))
    .map(commandOf);
}

/** A snapshot's bound; a list has pages. */
const mostAtOnce = 10_000;

export async function listCommands(db: Kysely<Database>, principal: Principal, request: ListCommandsRequest) {
  const size = pageSize(request.pageSize);
  const [after] = pageKey("commands", request.pageToken, 1) ?? [];
  const asked = conditions(principal, request);
  const where = after === undefined ? asked : sql`${asked} AND c.id < ${after}`;
  const order = sql`c.id DESC LIMIT ${size + 1}`;
  const places = placesOf(request);
  const rows = await select(db, places, where, order);
  const page = cutPage(
    rows.toSorted((a, b) => (a.id < b.id ? 1 : -1)),
    size,
    "commands",
    (row) => [row.id],
  );
  const total = request.returnTotalSize ? await count(db, places, asked) : undefined;
  return { commands: page.rows.map(commandOf), nextPageToken: page.nextPageToken, totalSize: total };
}

async function count(
  db: Kysely<Database>,
  places: readonly RawBuilder<unknown>[],
  where: RawBuilder<unknown>,
): Promise<number> {
  let total = 0;
  for (const from of places) {
    const { rows } = await sql<{ count: number }>`SELECT count(*)::int AS count FROM ${from} WHERE ${where}`.execute(
      db,
    );
    total += rows[0]?.count ?? 0;
  }
  return total;
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
