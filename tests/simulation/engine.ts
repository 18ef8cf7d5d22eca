/**
 * The engine of services/control-plane/src/commands on the simulated store: the
 * same locks in the same order, one rendition per statement. What moves a
 * command is the real `step`, and what messages and times mean the real
 * decisions.ts. services/control-plane/src/simulated.test.ts
 * compares it with the real statements.
 *
 *   engine.ts   locks and one step          wishes.ts   enqueue, cancel, retry, forks, what was lost
 *   claims.ts   READY becomes ASSIGNED      reports.ts  receipts, results, agents that return or go
 *   sweeps.ts   what time does
 */
import {
  type CommandEvent,
  isInFlight,
  isTerminal,
  retryDelayMs,
  step,
  type Verdict,
} from "../../services/control-plane/src/commands/index.ts";
import type { Store, Tx } from "./store.ts";
import type { CommandRow, DeploymentRow } from "./tables.ts";
import type { Process } from "./world.ts";

/** What the mutation checks break; all of it as the product has it otherwise. */
export interface Rules {
  step: typeof step;
  /** E1: a claim and a report lock the session's row. */
  locksSessions: boolean;
  /** E1: a claim is for a session that serves at that epoch. */
  claimNeedsSession: boolean;
  /** E2: a claim adds to the attempt. */
  claimCountsAttempts: boolean;
  /** E3: an enqueue locks the deployment before it looks at what is open. */
  enqueueLocks: boolean;
  /** An enqueue ends what waits for the same deployment. */
  enqueueSupersedes: boolean;
  /** The end of a session unbinds its commands. */
  endUnbinds: boolean;
  /** A wish is answered after its commit. */
  answersAfterCommit: boolean;
  /** A result of what has ended is answered, and not applied again. */
  endsOnce: boolean;
  /** The end of one command promotes what waits behind it. */
  promotes: boolean;
  /** E3: what was seen without a lock is looked at again under it. */
  sweepLooksAgain: boolean;
}

export const productRules: Rules = {
  step,
  locksSessions: true,
  claimNeedsSession: true,
  claimCountsAttempts: true,
  enqueueLocks: true,
  enqueueSupersedes: true,
  endUnbinds: true,
  answersAfterCommit: true,
  endsOnce: true,
  promotes: true,
  sweepLooksAgain: true,
};

export interface Signals {
  wake(agentIds: readonly string[]): void;
  cancel(agentId: string, commandId: string, attempt: number): void;
  pushAgain(agentId: string, commandId: string): void;
  close(agentId: string, reason: string, replicaId?: string): void;
}

export interface Engine {
  store: Store;
  process: Process;
  rules: Rules;
  signals: Signals;
  random: () => number;
  /** Told of each step that moved a command, before it is written. */
  moved: (tx: Tx, before: Locked, event: CommandEvent, verdict: Extract<Verdict, { kind: "moved" }>) => void;
}

/** As LockedCommand of the product. */
export type Locked = CommandRow & { maxRetries: number; newerWaits: boolean; timeLeft: boolean };

export interface Telling {
  reason?: string;
  supersededBy?: string;
}

/** Locks the commands; of what is open of deployments where `openOf` names them. */
export async function lockCommands(
  tx: Tx,
  by: { ids?: readonly string[]; openOf?: readonly string[] },
): Promise<Locked[]> {
  const { ids, openOf = [] } = by;
  if ((ids ?? openOf).length === 0) return [];
  const wanted = ids ?? openCommands(tx, (row) => openOf.includes(row.deploymentId)).map((row) => row.id);
  await tx.lock("commands", wanted);
  return [...new Set(wanted)].toSorted().flatMap((id) => {
    const row = tx.get("commands", id);
    if (row === undefined || (ids === undefined && isTerminal(row.state))) return [];
    return [lockedOf(tx, row)];
  });
}

function lockedOf(tx: Tx, row: CommandRow): Locked {
  const newerWaits =
    row.state !== "BLOCKED" &&
    tx.all("commands").some((other) => other.deploymentId === row.deploymentId && other.state === "BLOCKED");
  const timeLeft = row.deadlineAt === null || row.deadlineAt > tx.now;
  return { ...row, maxRetries: row.limits.maxRetries, newerWaits, timeLeft };
}

export function openCommands(tx: Tx, which: (row: CommandRow) => boolean): CommandRow[] {
  return tx.all("commands").filter((row) => !isTerminal(row.state) && which(row));
}

/** Locks deployments in order of id; unknown ids are missing in the answer. */
export async function lockDeployments(tx: Tx, ids: readonly string[]): Promise<Map<string, DeploymentRow>> {
  if (ids.length === 0) return new Map();
  await tx.lock("deployments", ids);
  return new Map(
    ids.flatMap((id) => {
      const row = tx.get("deployments", id);
      return row === undefined ? [] : [[id, row] as const];
    }),
  );
}

/** What one transaction does to commands beside what `apply` wrote: done by `write`. */
export interface ChangeSet {
  /** Deployments where something waits for the end of what was ahead of it. */
  readonly promotions: Set<string>;
}

export function changeSet(): ChangeSet {
  return { promotions: new Set() };
}

/** Applies one event to one locked command, which then shows it. The caller ends with `write`. */
export function apply(
  engine: Engine,
  tx: Tx,
  command: Locked,
  event: CommandEvent,
  set: ChangeSet,
  telling: Telling = {},
): Verdict {
  const verdict = engine.rules.step(command, event);
  if (verdict.kind !== "moved") return verdict;
  engine.moved(tx, command, event, verdict);
  const before = command.state;
  const { facts, to } = verdict;
  const { now } = tx;
  const bound = facts.boundEpoch;
  const returns = bound !== null && command.boundEpoch === null;
  /** While unbound the times of the run and of the cancel stand still. */
  const standing = (at: number | null): number | null =>
    at === null ? null : at + (now - Math.max(command.unboundAt ?? -Infinity, at));
  const after: Partial<CommandRow> = {
    state: to,
    attempt: facts.attempt,
    failures: facts.failures,
    boundEpoch: bound,
    everReceived: facts.everReceived,
    sessionsWithoutReceipt: facts.sessionsWithoutReceipt,
    cancelReason: facts.cancelReason,
    updatedAt: now,
    ...(bound === null && command.boundEpoch !== null ? { unboundAt: now } : {}),
    ...(bound !== null ? { unboundAt: null } : {}),
    ...(returns
      ? {
          receivedAt: standing(command.receivedAt),
          assignedAt: standing(command.assignedAt),
          cancellingAt: standing(command.cancellingAt),
        }
      : {}),
    ...(to === "RETRY_WAIT" && before !== "RETRY_WAIT"
      ? { dueAt: now + retryDelayMs(facts.failures, engine.random) }
      : {}),
    ...(to === "RUNNING" && before !== "RUNNING" ? { receivedAt: now } : {}),
    ...(to === "CANCELLING" && before !== "CANCELLING" ? { cancellingAt: now } : {}),
    ...(isTerminal(to) ? { endedAt: now, outcomeAttempt: facts.attempt } : {}),
    ...(telling.reason === undefined ? {} : { reason: telling.reason }),
    ...(telling.supersededBy === undefined ? {} : { supersededBy: telling.supersededBy }),
  };
  tx.patch("commands", command.id, after);
  Object.assign(command, after);
  for (const effect of verdict.effects) carryOut(engine, tx, command, effect, set);
  if (to === "READY" || (isInFlight(before) && !isInFlight(to))) tx.after(() => engine.signals.wake([command.agentId]));
  return verdict;
}

function carryOut(
  engine: Engine,
  tx: Tx,
  command: Locked,
  effect: Extract<Verdict, { kind: "moved" }>["effects"][number],
  set: ChangeSet,
): void {
  const { id, agentId, attempt, deploymentId } = command;
  switch (effect) {
    case "send-cancel":
      return tx.after(() => engine.signals.cancel(agentId, id, attempt));
    case "push-again":
      return tx.after(() => engine.signals.pushAgain(agentId, id));
    case "close-session":
      return tx.after(() => engine.signals.close(agentId, "CANCEL_UNANSWERED"));
    case "defect":
      return;
    case "hold":
      if (!command.newerWaits && !command.isRemoval) tx.patch("deployments", deploymentId, { heldReason: "HELD" });
      return;
    case "promote-next":
      if (command.newerWaits && engine.rules.promotes) set.promotions.add(deploymentId);
      return;
    default:
      effect satisfies never;
  }
}

/** Promotes what waits behind what has ended. */
export async function write(engine: Engine, tx: Tx, set: ChangeSet): Promise<void> {
  await tx.statement();
  if (set.promotions.size === 0) return;
  const waiting = await lockCommands(tx, { openOf: [...set.promotions] });
  set.promotions.clear();
  for (const next of waiting) if (next.state === "BLOCKED") apply(engine, tx, next, { kind: "ahead-ended" }, set);
}

/** Locks sessions and returns the epochs of those that are open (E1). */
export async function lockSessions(engine: Engine, tx: Tx, agentIds: readonly string[]): Promise<Map<string, number>> {
  if (engine.rules.locksSessions) await tx.lock("sessions", agentIds, "share");
  else await tx.statement();
  return new Map(
    agentIds.flatMap((id) => {
      const row = tx.get("sessions", id);
      return row === undefined || row.state === "ENDED" ? [] : [[id, row.epoch] as const];
    }),
  );
}
