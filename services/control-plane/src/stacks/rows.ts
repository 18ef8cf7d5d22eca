/**
 * Rows of stacks, and who holds them.
 *
 * H1: who changes what a stack wants holds its cluster, then its name
 *     (advisory), then its deployments, then its rows (T2): results hold
 *     deployments when they come to a stack's rows.
 * H2: an owner's handler writes targets and makes the rollout due; what follows
 *     from that is decided in a transaction of its own, which holds H1.
 */
import { create, fromBinary } from "@bufbuild/protobuf";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import { type CommandLimits, CommandLimitsSchema } from "@bowline/contract/products";
import type { StackRolloutsTable, StacksTable, StackTargetsTable } from "@bowline/db";
import { problem } from "@bowline/kernel";
import { type Selectable, sql } from "kysely";
import { defaultLimits, type EnginePorts, type Limits } from "../commands/index.ts";
import { lockDeployments } from "../deployments/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, type Principal, seesAll, systemPrincipal } from "../platform/context.ts";
import { type Db, MovedOn, type Tx, type Work } from "../platform/transactions.ts";
import type { StackPorts } from "./ports.ts";

export type StackRow = Selectable<StacksTable>;
export type TargetRow = Selectable<StackTargetsTable>;
export type RolloutRow = Selectable<StackRolloutsTable>;

/** What the server does by itself. */
export const itself: Caller = { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } };

/**
 * A stack by id, or by name one that is not DELETED (with `gone` the newest otherwise), as far as the principal may know
 * of it; undefined: there is none.
 */
export async function findStack(
  db: Db | Tx,
  principal: Principal,
  idOrName: string,
  { gone = false } = {},
): Promise<StackRow | undefined> {
  let query = db
    .selectFrom("stacks")
    .selectAll()
    .where((where) =>
      where.or([
        where("id", "=", idOrName),
        where.and([where("name", "=", idOrName), ...(gone ? [] : [where("state", "<>", "DELETED")])]),
      ]),
    )
    .orderBy(sql`state = 'DELETED'`)
    .orderBy("created_at", "desc");
  if (!seesAll(principal) || principal.organisationId !== "") {
    // A name is unique in an organisation only; who sees all means its own by a name, and any by an id.
    query = query.where((where) =>
      where.or([
        where("organisation_id", "=", principal.organisationId),
        ...(seesAll(principal) ? [where("id", "=", idOrName)] : []),
      ]),
    );
  }
  return query.limit(1).executeTakeFirst();
}

/** As `findStack`. Throws NOT_FOUND. */
export async function getStack(
  db: Db | Tx,
  principal: Principal,
  idOrName: string,
  options: { gone?: boolean } = {},
): Promise<StackRow> {
  const row = await findStack(db, principal, idOrName, options);
  if (row === undefined) throw problem("NOT_FOUND", `There is no stack ${idOrName}.`);
  return row;
}

/** H1: one at a time changes what the stack of this name wants. Until the transaction ends. */
export async function lockName(tx: Tx, organisationId: string, name: string): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${`${organisationId} ${name}`}, 17))`.execute(tx);
}

export interface HeldStack {
  stack: StackRow;
  targets: TargetRow[];
}

/** Deployments, targets and row of a stack, locked in the order of H1. The caller holds its cluster and its name. */
export async function holdRows(tx: Tx, stackId: string): Promise<HeldStack> {
  const known = await tx.selectFrom("stack_targets").select("deployment_id").where("stack_id", "=", stackId).execute();
  await lockDeployments(
    tx,
    known.map((row) => row.deployment_id),
  );
  const targets = await tx
    .selectFrom("stack_targets")
    .selectAll()
    .where("stack_id", "=", stackId)
    .orderBy("agent_id")
    .forUpdate()
    .execute();
  const stack = await tx.selectFrom("stacks").selectAll().where("id", "=", stackId).forUpdate().executeTakeFirst();
  if (stack === undefined) throw new MovedOn("the stack is gone");
  return { stack, targets };
}

/** Limits of its commands as the engine takes them. */
export function limitsOf(stack: Pick<StackRow, "limits">): Limits {
  const given = fromBinary(CommandLimitsSchema, stack.limits);
  const ms = (duration: Parameters<typeof durationMs>[0] | undefined, otherwise: number): number =>
    duration === undefined ? otherwise : durationMs(duration);
  return {
    maxRetries: given.maxRetries ?? defaultLimits.maxRetries,
    runTimeoutMs: ms(given.runTimeout, defaultLimits.runTimeoutMs),
    graceMs: ms(given.grace, defaultLimits.graceMs),
    cancelLimitMs: ms(given.cancelLimit, defaultLimits.cancelLimitMs),
    offlineLifeMs: ms(given.offlineLife, defaultLimits.offlineLifeMs),
    deadlineMs: given.deadline === undefined ? undefined : durationMs(given.deadline),
    priority: given.priority ?? defaultLimits.priority,
  };
}

/** The same for people. */
export function shownLimits(stack: Pick<StackRow, "limits">): CommandLimits {
  const { maxRetries, runTimeoutMs, graceMs, cancelLimitMs, offlineLifeMs, deadlineMs, priority } = limitsOf(stack);
  return create(CommandLimitsSchema, {
    ...{ maxRetries, priority, runTimeout: durationFromMs(runTimeoutMs), grace: durationFromMs(graceMs) },
    ...{ cancelLimit: durationFromMs(cancelLimitMs), offlineLife: durationFromMs(offlineLifeMs) },
    ...(deadlineMs === undefined ? {} : { deadline: durationFromMs(deadlineMs) }),
  });
}

/** Counts and notes that stacks look different now. In order of id (T2). */
export async function touchStacks(ports: EnginePorts, work: Work, stackIds: readonly string[]): Promise<void> {
  if (stackIds.length === 0) return;
  const { rows } = await sql<{ id: string; organisation_id: string; cluster_id: string }>`
    UPDATE stacks AS s SET version = s.version + 1, updated_at = now()
    FROM (SELECT id FROM stacks WHERE id = ANY(${[...stackIds]}) ORDER BY id FOR NO KEY UPDATE) AS held
    WHERE s.id = held.id RETURNING s.id, s.organisation_id, s.cluster_id`.execute(work.tx);
  await noteStacks(ports, work, rows);
}

export async function noteStacks(
  ports: EnginePorts,
  work: Work,
  rows: readonly { id: string; organisation_id: string; cluster_id: string }[],
): Promise<void> {
  await ports.events.note(
    work,
    rows.map((row) => ({
      ...{ topic: "stack" as const, subjectId: row.id },
      ...{ organisationId: row.organisation_id, clusterId: row.cluster_id },
    })),
  );
}

/** Records what somebody did with a stack. */
export async function audited(
  ports: StackPorts,
  work: Work,
  caller: Caller,
  stack: StackRow,
  verb: string,
  after: object,
): Promise<void> {
  await audit(ports.engine().events, work, caller, {
    action: `stack.${verb}`,
    resourceKind: "stack",
    resourceId: stack.id,
    organisationId: stack.organisation_id,
    after: { name: stack.name, ...after },
  });
}
