/**
 * Reads commands under lock, applies steps of transitions.ts, and writes what
 * they decided, with everything that follows from it, in the caller's transaction.
 *
 * E3: whoever calls `apply` holds the deployment's row.
 * W1: a set is written in one statement, whatever its size; nothing that
 *     `apply` decided is lost, because `write` throws nothing away and every
 *     caller ends with it (or with `finish`).
 * W2: what waits is promoted after what was ahead of it is written: the two
 *     indexes of E4 see the one end before the other begins.
 */
import { openCommandStates, sqlList } from "@bowline/db";
import { sql } from "kysely";
import { hold } from "../deployments/index.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import { retryDelayMs } from "./decisions.ts";
import type { ChangedCommand, EnginePorts, LockedCommand } from "./ports.ts";
import { type CancelReason, type CommandEvent, isInFlight, isTerminal, step, type Verdict } from "./transitions.ts";

/** What an event says beside its kind. */
export interface Telling {
  reason?: string;
  message?: string;
  supersededBy?: string;
}

/** In words that the index of open commands has: with parameters no plan may use it. */
const openOnly = sql<boolean>`s.state IN (${sql.raw(sqlList(openCommandStates))})`;

/** Locks the commands that `where` selects, in order of id (T2). Their deployments are locked already (E3). */
export async function lockCommands(
  tx: Tx,
  by: { ids?: readonly string[]; openOf?: readonly string[] },
): Promise<LockedCommand[]> {
  const wanted = by.ids ?? by.openOf ?? [];
  if (wanted.length === 0) return [];
  const rows = await tx
    .selectFrom("command_states as s")
    .innerJoin("commands as c", "c.id", "s.command_id")
    .select([
      "c.id",
      "c.deployment_id as deploymentId",
      "c.agent_id as agentId",
      "c.cluster_id as clusterId",
      "c.organisation_id as organisationId",
      "c.generation",
      "c.product_publish_id as productPublishId",
      "c.owner_kind as ownerKind",
      "c.owner_id as ownerId",
      "c.trace_parent as traceParent",
      "s.state",
      "s.attempt",
      "s.failures",
      "s.bound_epoch as boundEpoch",
      "s.ever_received as everReceived",
      "s.sessions_without_receipt as sessionsWithoutReceipt",
      sql<CancelReason | null>`s.cancel_reason`.as("cancelReason"),
      "c.is_removal as isRemoval",
      "c.reduces",
      "c.max_retries as maxRetries",
      "s.outcome_attempt as outcomeAttempt",
      sql<boolean>`s.state <> 'BLOCKED' AND EXISTS (
        SELECT 1 FROM command_states AS n WHERE n.deployment_id = s.deployment_id AND n.state = 'BLOCKED')`.as(
        "newerWaits",
      ),
      sql<boolean>`c.deadline_at IS NULL OR c.deadline_at > now()`.as("timeLeft"),
    ])
    .where((where) =>
      by.ids === undefined
        ? where.and([where("s.deployment_id", "=", sql<string>`any(${[...wanted]})`), openOnly])
        : where("s.command_id", "=", sql<string>`any(${[...wanted]})`),
    )
    .orderBy("s.command_id")
    .forUpdate("s")
    .execute();
  return rows;
}

/** What one transaction does to commands: decided by `apply`, and done by `write`. */
export interface ChangeSet {
  /** Every change so far, in order: what owners hear. */
  readonly changes: ChangedCommand[];
  /** By command. */
  readonly unwritten: Map<string, RowChange>;
  /** Why deployments are HELD, by deployment. */
  readonly holds: Map<string, string>;
  /** Deployments where something waits for the end of what was ahead of it. */
  readonly promotions: Set<string>;
}

interface RowChange {
  command: LockedCommand;
  unbinds: boolean;
  binds: boolean;
  receives: boolean;
  cancels: boolean;
  ends: boolean;
  dueSeconds: number | null;
  reason: string | null;
  message: string;
  supersededBy: string | null;
}

export function changeSet(): ChangeSet {
  return { changes: [], unwritten: new Map(), holds: new Map(), promotions: new Set() };
}

/** Applies one event to one locked command, which then shows it. The caller ends with `write` or `finish` (W1). */
export function apply(
  ports: EnginePorts,
  work: Work,
  command: LockedCommand,
  event: CommandEvent,
  set: ChangeSet,
  telling: Telling = {},
): Verdict {
  const verdict = step(command, event);
  if (verdict.kind !== "moved") return verdict;
  const before = { ...command };
  const { facts, to } = verdict;
  const reason = telling.reason ?? reasonOf(event);
  const message = telling.message ?? "";
  const earlier = set.unwritten.get(command.id);
  Object.assign(command, facts, { state: to }, isTerminal(to) ? { outcomeAttempt: facts.attempt } : {});
  set.unwritten.set(command.id, {
    command,
    unbinds: (facts.boundEpoch === null && before.boundEpoch !== null) || (earlier?.unbinds ?? false),
    binds: (facts.boundEpoch !== null && before.boundEpoch === null) || (earlier?.binds ?? false),
    receives: (to === "RUNNING" && before.state !== "RUNNING") || (earlier?.receives ?? false),
    cancels: (to === "CANCELLING" && before.state !== "CANCELLING") || (earlier?.cancels ?? false),
    ends: isTerminal(to),
    dueSeconds:
      to === "RETRY_WAIT" && before.state !== "RETRY_WAIT"
        ? retryDelayMs(facts.failures, ports.random) / 1000
        : (earlier?.dueSeconds ?? null),
    reason: reason ?? earlier?.reason ?? null,
    message: reason === undefined ? (earlier?.message ?? "") : message,
    supersededBy: telling.supersededBy ?? earlier?.supersededBy ?? null,
  });
  set.changes.push({ ...command, from: before.state, reason: reason ?? "", message });
  if (isTerminal(to)) work.after(() => ports.metrics?.commandEnded(to));
  for (const effect of verdict.effects) carryOut(ports, work, command, effect, set, reason || to);
  // Work to claim, or a place for it: a try that ended frees one, whoever ended it.
  const placeFreed = isInFlight(before.state) && !isInFlight(to);
  if (to === "READY" || placeFreed) work.after(() => ports.signals.wake([command.agentId]));
  return verdict;
}

function carryOut(
  ports: EnginePorts,
  work: Work,
  command: LockedCommand,
  effect: Extract<Verdict, { kind: "moved" }>["effects"][number],
  set: ChangeSet,
  reason: string,
): void {
  switch (effect) {
    case "send-cancel":
      work.after(() => ports.signals.cancel(command.agentId, command.id, command.attempt));
      return;
    case "push-again":
      work.after(() => ports.signals.pushAgain(command.agentId, command.id));
      return;
    case "close-session":
      work.after(() => ports.signals.close(command.agentId, "CANCEL_UNANSWERED"));
      return;
    case "defect":
      work.after(() => ports.metrics?.defect("journal_incomplete"));
      ports.log.error(
        { command: command.id, attempt: command.attempt },
        "a journal that is whole lacks a command that was received",
      );
      return;
    case "hold":
      // A newer one that waits makes the outcome of this one nobody's business.
      if (!command.newerWaits && !command.isRemoval) set.holds.set(command.deploymentId, reason);
      return;
    case "promote-next":
      // Looked for under the deployment's lock (E3), so nothing can have come to wait since.
      if (command.newerWaits) set.promotions.add(command.deploymentId);
      return;
    default:
      effect satisfies never;
  }
}

/** Writes what was decided, then promotes what waits (W2). Afterwards other statements see it. */
export async function write(ports: EnginePorts, work: Work, set: ChangeSet): Promise<void> {
  await writeRows(ports, work, set);
  if (set.holds.size > 0) await hold(work.tx, set.holds);
  set.holds.clear();
  if (set.promotions.size === 0) return;
  const waiting = await lockCommands(work.tx, { openOf: [...set.promotions] });
  set.promotions.clear();
  for (const next of waiting) if (next.state === "BLOCKED") apply(ports, work, next, { kind: "ahead-ended" }, set);
  await writeRows(ports, work, set);
}

/** `write`, and tells the owners. */
export async function finish(ports: EnginePorts, work: Work, set: ChangeSet): Promise<void> {
  await write(ports, work, set);
  await tellOwners(ports, work, set.changes);
}

/** One statement for all (W1). */
async function writeRows(ports: EnginePorts, work: Work, { unwritten }: ChangeSet): Promise<void> {
  if (unwritten.size === 0) return;
  const rows = [...unwritten.values()];
  unwritten.clear();
  const column = <T>(read: (row: RowChange) => T): T[] => rows.map(read);
  await sql`
    UPDATE command_states AS s SET state = n.state, attempt = n.attempt, failures = n.failures, bound_epoch = n.bound_epoch,
      ever_received = n.ever_received, sessions_without_receipt = n.sessions_without_receipt,
      cancel_reason = n.cancel_reason, updated_at = now(),
      unbound_at = CASE WHEN n.bound_epoch IS NOT NULL THEN NULL WHEN n.unbinds THEN now() ELSE s.unbound_at END,
      assigned_at = ${goesOn("assigned_at")},
      received_at = CASE WHEN n.receives THEN now() ELSE ${goesOn("received_at")} END,
      cancelling_at = CASE WHEN n.cancels THEN now() ELSE ${goesOn("cancelling_at")} END,
      due_at = coalesce(now() + make_interval(secs => n.due_seconds), s.due_at),
      ended_at = CASE WHEN n.ends THEN now() ELSE s.ended_at END,
      outcome_attempt = CASE WHEN n.ends THEN n.attempt ELSE s.outcome_attempt END,
      reason = coalesce(n.reason, s.reason), message = CASE WHEN n.reason IS NULL THEN s.message ELSE n.message END,
      superseded_by = coalesce(n.superseded_by, s.superseded_by)
    FROM unnest(${column((r) => r.command.id)}::text[], ${column((r) => r.command.state)}::text[],
      ${column((r) => r.command.attempt)}::int[], ${column((r) => r.command.failures)}::int[],
      ${column((r) => r.command.boundEpoch)}::int[], ${column((r) => r.command.everReceived)}::bool[],
      ${column((r) => r.command.sessionsWithoutReceipt)}::int[], ${column((r) => r.command.cancelReason)}::text[],
      ${column((r) => r.unbinds)}::bool[], ${column((r) => r.binds)}::bool[], ${column((r) => r.receives)}::bool[],
      ${column((r) => r.cancels)}::bool[], ${column((r) => r.ends)}::bool[], ${column((r) => r.dueSeconds)}::float8[],
      ${column((r) => r.reason)}::text[], ${column((r) => r.message)}::text[], ${column((r) => r.supersededBy)}::text[])
      AS n (command_id, state, attempt, failures, bound_epoch, ever_received, sessions_without_receipt, cancel_reason,
        unbinds, binds, receives, cancels, ends, due_seconds, reason, message, superseded_by)
    WHERE s.command_id = n.command_id`.execute(work.tx);
  await ports.events.note(
    work,
    rows.map(({ command }) => ({
      ...{ topic: "command" as const, subjectId: command.id },
      ...{ organisationId: command.organisationId, clusterId: command.clusterId },
    })),
  );
}

/**
 * The run timeout and the cancel limit count only while bound: on its return the clock of a command goes on where it
 * stood when its session ended. Without this an agent that was away would be found late before it can say a word.
 */
function goesOn(name: "received_at" | "assigned_at" | "cancelling_at") {
  const column = sql.ref(`s.${name}`);
  return sql`CASE WHEN n.binds THEN ${column} + (now() - greatest(s.unbound_at, ${column})) ELSE ${column} END`;
}

/** Tells each owner's slice what changed, in the same transaction. */
export async function tellOwners(ports: EnginePorts, work: Work, changes: readonly ChangedCommand[]): Promise<void> {
  const byKind = Map.groupBy(changes, (change) => change.ownerKind);
  for (const [kind, group] of byKind) await ports.owners.get(kind)?.changed(work, group);
}

function reasonOf(event: CommandEvent): string | undefined {
  switch (event.kind) {
    case "newer":
      return undefined;
    case "cancel":
      return "CANCEL_REQUESTED";
    case "agent-gone":
      return event.retired ? "AGENT_RETIRED" : "AGENT_REVOKED";
    case "time-over":
      return event.why === "DEADLINE" ? "DEADLINE_EXCEEDED" : "OFFLINE_LIFE_EXCEEDED";
    case "no-receipt":
      return "NOT_RECEIVED";
    case "run-timeout":
      return "RUN_TIMEOUT";
    case "cancel-unanswered":
      return "CANCEL_UNANSWERED";
    case "unbound-too-long":
      return "AGENT_AWAY_TOO_LONG";
    default:
      return undefined;
  }
}
