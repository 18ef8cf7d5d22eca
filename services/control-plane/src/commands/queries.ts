/** Reads of commands for people: what is open, and the history of what was done. */
import { timestampDate, timestampMs } from "@bufbuild/protobuf/wkt";
import { type Command, Command_Kind, Command_State, type ListCommandsRequest } from "@bowline/contract/commands";
import { type Database, openCommandStates, sqlList } from "@bowline/db";
import { lowestId } from "@bowline/kernel";
import { type Kysely, type RawBuilder, sql } from "kysely";
import { accountsCalled } from "../identity/index.ts";
import type { Principal } from "../platform/context.ts";
import { seesAll } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { EnginePorts } from "./ports.ts";
import { commandsOf, type CommandRow as Row } from "./shown.ts";

/** What reads need of the engine. */
export type QueryPorts = Pick<EnginePorts, "db" | "owners">;

/** Filters that a list and a watch share. */
export type CommandFilter = Partial<
  Pick<
    ListCommandsRequest,
    | "clusterId"
    | "agentId"
    | "deploymentId"
    | "productPublishId"
    | "states"
    | "stack"
    | "createdBy"
    | "from"
    | "to"
    | "kinds"
  >
> & {
  ids?: readonly string[];
  openOnly?: boolean;
};

/** Open ones, those that ended lately, and the newest of each deployment. */
const newestOnes = sql`commands AS c JOIN command_states AS s ON s.command_id = c.id
  LEFT JOIN command_progress AS p ON p.command_id = c.id AND p.attempt = s.attempt`;
/** Those that have left (history.ts), under the same names. */
const leftOnes = sql`ended_commands AS s JOIN LATERAL (SELECT s.*) AS c ON true
  LEFT JOIN LATERAL (SELECT NULL::text AS phase, NULL::smallint AS percent, NULL::text AS message) AS p ON true`;

const columns = sql`c.id, c.agent_id, a.name AS agent, c.cluster_id, c.deployment_id, c.generation, c.product_publish_id,
  c.organisation_id, c.max_retries, c.run_timeout_ms, c.retry_of, c.created_at, c.created_by, c.reduces, c.is_removal,
  c.owner_kind, c.owner_id, c.revision, c.rollout_id, s.state, s.reason, s.message, s.priority, s.attempt, s.failures, s.superseded_by,
  s.late_outcome, s.due_at, s.assigned_at, s.ended_at, p.phase, p.percent, p.message AS progress_message`;

/** A command's id has the clock of a replica, its row the database's: bounds of ids are wider by this. */
const clocksApartMs = 3_600_000;

const kinds: Readonly<Record<Command_Kind, RawBuilder<unknown>>> = {
  [Command_Kind.KIND_UNSPECIFIED]: sql`false`,
  [Command_Kind.APPLY]: sql`NOT c.reduces`,
  [Command_Kind.STOP]: sql`(c.reduces AND NOT c.is_removal)`,
  [Command_Kind.REMOVE]: sql`c.is_removal`,
};

/**
 * What a filter asks for, without the states: see `places`. Names become ids first, so that each condition is one that
 * an index has.
 */
async function conditions(
  ports: QueryPorts,
  principal: Principal,
  filter: CommandFilter,
): Promise<RawBuilder<unknown>> {
  const { db } = ports;
  const all = [sql`true`];
  const { clusterId, agentId, deploymentId, productPublishId, stack, createdBy, from, to, ids } = filter;
  const oneOf = (column: RawBuilder<unknown>, values: readonly string[]): void =>
    void all.push(values.length === 1 ? sql`${column} = ${values[0]}` : sql`${column} = ANY(${[...values]})`);
  const called = async (table: "clusters" | "agents", idOrName: string): Promise<string[]> => {
    const { rows } = await sql<{ id: string }>`
      SELECT id FROM ${sql.table(table)} WHERE id = ${idOrName} OR name = ${idOrName}`.execute(db);
    return rows.map(({ id }) => id);
  };
  if (!seesAll(principal)) oneOf(sql`c.organisation_id`, [principal.organisationId]);
  if (clusterId) oneOf(sql`c.cluster_id`, await called("clusters", clusterId));
  if (agentId) oneOf(sql`c.agent_id`, await called("agents", agentId));
  if (stack) oneOf(sql`c.owner_id`, (await ports.owners.get(stackKind)?.called?.(db, principal, stack)) ?? []);
  if (createdBy) oneOf(sql`c.created_by`, await accountsCalled(db, createdBy));
  if (deploymentId) oneOf(sql`c.deployment_id`, [deploymentId]);
  if (productPublishId) oneOf(sql`c.product_publish_id`, [productPublishId]);
  if (from !== undefined)
    all.push(sql`c.created_at >= ${timestampDate(from)} AND c.id >= ${idAt(timestampMs(from) - clocksApartMs)}`);
  if (to !== undefined)
    all.push(sql`c.created_at < ${timestampDate(to)} AND c.id < ${idAt(timestampMs(to) + clocksApartMs)}`);
  if (filter.kinds?.length)
    all.push(
      sql`(${sql.join(
        filter.kinds.map((kind) => kinds[kind]),
        sql` OR `,
      )})`,
    );
  // In words that the index of open commands has: with parameters no plan may use it.
  if (filter.openOnly) all.push(sql`s.state IN (${sql.raw(sqlList(openCommandStates))})`);
  if (ids !== undefined) all.push(sql`c.id = ANY(${[...ids]})`);
  return sql.join(all, sql` AND `);
}

const stackKind = "stack";

/** Times of which no id can tell, before 1970 or after the year 10000, are as good as the nearest. */
function idAt(ms: number): string {
  return lowestId("command", Math.round(Math.min(Math.max(ms, 0), 253_402_300_800_000)));
}

interface Place {
  from: RawBuilder<unknown>;
  where: RawBuilder<unknown>;
}

/**
 * Where to look, and in which state: nothing that is open has left, and each state is looked for by itself, since an
 * index gives one state's newest and not those of several.
 */
function placesOf(filter: CommandFilter): readonly Place[] {
  const states = [...new Set((filter.states ?? []).map(stateName))];
  if (states.length === 0) {
    const anyState = [{ from: newestOnes, where: sql`true` }];
    return filter.openOnly === true ? anyState : [...anyState, { from: leftOnes, where: sql`true` }];
  }
  return states.flatMap((state) => {
    const where = sql`s.state = ${sql.raw(sqlList([state]))}`; // a name of the contract's, in words that indexes have
    const newest = { from: newestOnes, where };
    return openStates.has(state) || filter.openOnly === true ? [newest] : [newest, { from: leftOnes, where }];
  });
}

const openStates: ReadonlySet<string> = new Set(openCommandStates);

/** From all these places in one statement: what leaves meanwhile is seen in one of them. */
function selecting(places: readonly Place[], asked: RawBuilder<unknown>, order: RawBuilder<unknown>): RawBuilder<Row> {
  const parts = places.map(
    ({ from, where }) =>
      sql`(SELECT ${columns} FROM ${from} LEFT JOIN agents AS a ON a.id = c.agent_id
        WHERE ${asked} AND ${where} ORDER BY ${order})`,
  );
  return sql<Row>`${sql.join(parts, sql` UNION ALL `)}`;
}

/** Commands that the principal may see, the oldest first. */
export async function readCommands(ports: QueryPorts, principal: Principal, filter: CommandFilter): Promise<Command[]> {
  const where = await conditions(ports, principal, filter);
  const order = sql`c.created_at, c.id LIMIT ${mostAtOnce}`;
  const select = async (places: readonly Place[]): Promise<Row[]> =>
    (await selecting(places, where, order).execute(ports.db)).rows;
  let rows: Row[];
  if (filter.ids !== undefined) {
    // A watch reads them one by one as they change: those that have left are the exception.
    rows = await select([{ from: newestOnes, where: sql`true` }]);
    if (rows.length < filter.ids.length) rows = await select(placesOf({}));
  } else rows = await select(placesOf(filter));
  return commandsOf(
    ports,
    rows.toSorted((a, b) => a.created_at.getTime() - b.created_at.getTime() || (a.id < b.id ? -1 : 1)),
  );
}

/** A snapshot's bound; a list has pages. */
const mostAtOnce = 10_000;

/** The statement of one page, one row more than it has. */
export async function pageStatement(
  ports: QueryPorts,
  principal: Principal,
  request: ListCommandsRequest,
): Promise<{ statement: RawBuilder<Row>; places: readonly Place[]; asked: RawBuilder<unknown>; size: number }> {
  const size = pageSize(request.pageSize);
  const [after] = pageKey("commands", request.pageToken, 1) ?? [];
  const asked = await conditions(ports, principal, request);
  const where = after === undefined ? asked : sql`${asked} AND c.id < ${after}`;
  const places = placesOf(request);
  return { statement: selecting(places, where, sql`c.id DESC LIMIT ${size + 1}`), places, asked, size };
}

export async function listCommands(ports: QueryPorts, principal: Principal, request: ListCommandsRequest) {
  const { statement, places, asked, size } = await pageStatement(ports, principal, request);
  const { rows } = await statement.execute(ports.db);
  const page = cutPage(
    rows.toSorted((a, b) => (a.id < b.id ? 1 : -1)),
    size,
    "commands",
    (row) => [row.id],
  );
  const total = request.returnTotalSize ? await count(ports.db, places, asked) : undefined;
  return { commands: await commandsOf(ports, page.rows), nextPageToken: page.nextPageToken, totalSize: total };
}

async function count(db: Kysely<Database>, places: readonly Place[], asked: RawBuilder<unknown>): Promise<number> {
  let total = 0;
  for (const { from, where } of places) {
    const { rows } = await sql<{ count: number }>`
      SELECT count(*)::int AS count FROM ${from} WHERE ${asked} AND ${where}`.execute(db);
    total += rows[0]?.count ?? 0;
  }
  return total;
}

function stateName(state: Command_State): string {
  return Object.entries(Command_State).find(([, value]) => value === state)?.[0] ?? "";
}
