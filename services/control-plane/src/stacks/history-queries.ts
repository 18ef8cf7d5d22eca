/** Reads of rollouts and revisions for people. */
import { create, fromBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  type GetStackRevisionRequest,
  type ListRolloutsRequest,
  type ListStackRevisionsRequest,
  type Rollout,
  Rollout_Phase,
  Rollout_State,
  RolloutPolicySchema,
  RolloutSchema,
  type StackRevision,
  StackRevisionSchema,
} from "@bowline/contract/stacks";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { accountNames } from "../identity/index.ts";
import { type Principal, seesAll } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db } from "../platform/transactions.ts";
import { getStack, type RolloutRow } from "./rows.ts";

function rolloutQuery(db: Db) {
  return db
    .selectFrom("stack_rollouts as r")
    .innerJoin("stacks as s", "s.id", "r.stack_id")
    .selectAll("r")
    .select(["s.name as stack", "s.organisation_id"]);
}

/** Those that `narrow` leaves. */
export async function rolloutsOf(
  db: Db,
  narrow: (query: ReturnType<typeof rolloutQuery>) => ReturnType<typeof rolloutQuery>,
): Promise<Rollout[]> {
  const rows = await narrow(rolloutQuery(db)).execute();
  const names = await accountNames(
    db,
    rows.map((row) => row.created_by),
  );
  return rows.map((row) => rolloutOf(row, row.stack, names.get(row.created_by) ?? ""));
}

function rolloutOf(row: RolloutRow, stack: string, createdByName: string): Rollout {
  return create(RolloutSchema, {
    id: row.id,
    stackId: row.stack_id,
    stack,
    fromRevision: row.from_revision,
    toRevision: row.to_revision,
    cause: row.cause,
    state: Rollout_State[row.state as Exclude<keyof typeof Rollout_State, number>],
    reason: row.reason,
    message: row.message,
    done: row.done,
    total: row.total,
    policy: fromBinary(RolloutPolicySchema, row.policy),
    followedBy: row.followed_by,
    phase: Rollout_Phase[row.phase as Exclude<keyof typeof Rollout_Phase, number>],
    awaitsPromotion: row.at_rest && row.ended_at === null && row.phase !== "SWITCHING",
    sideBySide: row.side_by_side,
    ...(row.keep_until === null || row.phase !== "SWITCHING"
      ? {}
      : { removesOldAt: timestampFromDate(row.keep_until) }),
    createdBy: row.created_by,
    createdByName,
    createdAt: timestampFromDate(row.created_at),
    ...(row.ended_at === null ? {} : { endedAt: timestampFromDate(row.ended_at) }),
  });
}

/** Throws NOT_FOUND. */
export async function readRollout(db: Db, principal: Principal, id: string): Promise<Rollout> {
  const [rollout] = await rolloutsOf(db, (query) => {
    const one = query.where("r.id", "=", id);
    return seesAll(principal) ? one : one.where("s.organisation_id", "=", principal.organisationId);
  });
  if (rollout === undefined) throw problem("NOT_FOUND", `There is no rollout ${id}.`);
  return rollout;
}

export async function listRollouts(db: Db, principal: Principal, request: ListRolloutsRequest) {
  const stack = await getStack(db, principal, request.stackId);
  const size = pageSize(request.pageSize);
  const [after] = pageKey("rollouts", request.pageToken, 1) ?? [];
  const rollouts = await rolloutsOf(db, (query) => {
    const own = query.where("r.stack_id", "=", stack.id);
    return (after === undefined ? own : own.where("r.id", "<", after)).orderBy("r.id", "desc").limit(size + 1);
  });
  const { rows, nextPageToken } = cutPage(rollouts, size, "rollouts", (row) => [row.id]);
  return { rollouts: rows, nextPageToken };
}

export async function listRevisions(db: Db, principal: Principal, request: ListStackRevisionsRequest) {
  const stack = await getStack(db, principal, request.stackId);
  const size = pageSize(request.pageSize);
  const [after] = pageKey("stack-revisions", request.pageToken, 1) ?? [];
  let query = revisionQuery(db, stack.id);
  if (after !== undefined) query = query.where("number", "<", Number(after));
  const found = await query
    .orderBy("number", "desc")
    .limit(size + 1)
    .execute();
  const { rows, nextPageToken } = cutPage(found, size, "stack-revisions", (row) => [String(row.number)]);
  return { revisions: await revisionsOf(db, rows), nextPageToken };
}

/** With what it was made of. Throws NOT_FOUND. */
export async function readRevision(
  db: Db,
  principal: Principal,
  { stackId, number }: Pick<GetStackRevisionRequest, "stackId" | "number">,
): Promise<StackRevision> {
  const stack = await getStack(db, principal, stackId);
  const row = await revisionQuery(db, stack.id).select("normalised").where("number", "=", number).executeTakeFirst();
  const [revision] = row === undefined ? [] : await revisionsOf(db, [row]);
  if (row === undefined || revision === undefined) throw problem("NOT_FOUND", `The stack has no revision ${number}.`);
  return Object.assign(revision, { normalised: row.normalised });
}

/** Without what may be large: that stays in the database. */
function revisionQuery(db: Db, stackId: string) {
  return db
    .selectFrom("stack_revisions")
    .select(["number", "created_by", "created_at", "stable_at"])
    .select(sql<string[]>`jsonb_path_query_array(model, '$.services[*].name')`.as("services"))
    .where("stack_id", "=", stackId);
}

type RevisionRow = Awaited<ReturnType<ReturnType<typeof revisionQuery>["execute"]>>[number];

async function revisionsOf(db: Db, rows: readonly RevisionRow[]): Promise<StackRevision[]> {
  const names = await accountNames(
    db,
    rows.map((row) => row.created_by),
  );
  return rows.map((row) =>
    create(StackRevisionSchema, {
      number: row.number,
      services: row.services,
      createdBy: row.created_by,
      createdByName: names.get(row.created_by) ?? "",
      createdAt: timestampFromDate(row.created_at),
      ...(row.stable_at === null ? {} : { stableAt: timestampFromDate(row.stable_at) }),
    }),
  );
}
