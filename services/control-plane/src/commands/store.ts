/**
 * Reads commands under lock, applies one step of transitions.ts, writes the
 * answer and everything that follows from it, in the caller's transaction.
 *
 * E3: whoever calls `apply` holds the deployment's row.
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

/**
 * The run timeout and the cancel limit count only while bound: on its return the clock of a command goes on where it
 * stood when its session ended. Without this an agent that was away would be found late before it can say a word.
 */
const standing = (column: "received_at" | "assigned_at" | "cancelling_at") =>
  sql<Date | null>`${sql.ref(column)} + (now() - greatest(unbound_at, ${sql.ref(column)}))`;
const whileUnbound = {
  received_at: standing("received_at"),
  assigned_at: standing("assigned_at"),
  cancelling_at: standing("cancelling_at"),
};

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
        ? where.and([where("s.deployment_id", "in", [...wanted]), openOnly])
        : where("s.command_id", "in", [...wanted]),
    )
    .orderBy("s.command_id")
    .forUpdate("s")
    .execute();
  return rows;
}

/**
 * Applies one event to one locked command and writes the answer. `changes`
 * collects what owners must hear; call `tellOwners` with it before the commit.
 */
export async function apply(
  ports: EnginePorts,
  work: Work,
  command: LockedCommand,
  event: CommandEvent,
  changes: ChangedCommand[],
  telling: Telling = {},
): Promise<Verdict> {
  const verdict = step(command, event);
  if (verdict.kind !== "moved") return verdict;
  const before = command.state;
  const { facts, to } = verdict;
  const reason = telling.reason ?? reasonOf(event);
  await work.tx
    .updateTable("command_states")
    .set({
      state: to,
      attempt: facts.attempt,
      failures: facts.failures,
      bound_epoch: facts.boundEpoch,
      ever_received: facts.everReceived,
      sessions_without_receipt: facts.sessionsWithoutReceipt,
      cancel_reason: facts.cancelReason,
      updated_at: sql`now()`,
      ...(facts.boundEpoch === null && command.boundEpoch !== null ? { unbound_at: sql<Date>`now()` } : {}),
      ...(facts.boundEpoch !== null ? { unbound_at: null } : {}),
      ...(facts.boundEpoch !== null && command.boundEpoch === null ? whileUnbound : {}),
      ...(to === "RETRY_WAIT" && before !== "RETRY_WAIT"
        ? { due_at: sql<Date>`now() + make_interval(secs => ${retryDelayMs(facts.failures, ports.random) / 1000})` }
        : {}),
      ...(to === "ASSIGNED" && before === "READY" ? { assigned_at: sql<Date>`now()` } : {}),
      ...(to === "RUNNING" && before !== "RUNNING" ? { received_at: sql<Date>`now()` } : {}),
      ...(to === "CANCELLING" && before !== "CANCELLING" ? { cancelling_at: sql<Date>`now()` } : {}),
      ...(isTerminal(to) ? { ended_at: sql<Date>`now()`, outcome_attempt: facts.attempt } : {}),
      ...(reason === undefined ? {} : { reason, message: telling.message ?? "" }),
      ...(telling.supersededBy === undefined ? {} : { superseded_by: telling.supersededBy }),
    })
    .where("command_id", "=", command.id)
    .execute();
  Object.assign(command, facts, { state: to });
  if (isTerminal(to)) work.after(() => ports.metrics?.commandEnded(to));
  changes.push({ ...command, from: before, reason: reason ?? "", message: telling.message ?? "" });
  await ports.events.note(work, [
    { topic: "command", subjectId: command.id, organisationId: command.organisationId, clusterId: command.clusterId },
  ]);
  for (const effect of verdict.effects) await carryOut(ports, work, command, effect, changes, reason ?? to);
  // Work to claim, or a place for it: a try that ended frees one, whoever ended it.
  const placeFreed = isInFlight(before) && !isInFlight(to);
  if (to === "READY" || placeFreed) work.after(() => ports.signals.wake([command.agentId]));
  return verdict;
}

async function carryOut(
  ports: EnginePorts,
  work: Work,
  command: LockedCommand,
  effect: Extract<Verdict, { kind: "moved" }>["effects"][number],
  changes: ChangedCommand[],
  reason: string,
): Promise<void> {
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
      if (!command.newerWaits && !command.isRemoval) await hold(work.tx, command.deploymentId, reason);
      return;
    case "promote-next": {
      // Looked for under the deployment's lock (E3), so nothing can have come to wait since.
      if (!command.newerWaits) return;
      const next = (await lockCommands(work.tx, { openOf: [command.deploymentId] })).find(
        (other) => other.state === "BLOCKED",
      );
      if (next !== undefined) await apply(ports, work, next, { kind: "ahead-ended" }, changes);
      return;
    }
    default:
      effect satisfies never;
  }
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
