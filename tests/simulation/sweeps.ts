/** What time does to commands: commands/sweep.ts of the product. */
import { dueEvent, type DueReason, isTerminal, isWaiting } from "../../services/control-plane/src/commands/index.ts";
import { apply, changeSet, type Engine, lockCommands, lockDeployments, write } from "./engine.ts";
import { DatabaseAway } from "./store.ts";
import type { CommandRow, Tables } from "./tables.ts";

export interface Blames {
  silence: boolean;
  absence: boolean;
}

export const pushAgainAfterMs = 5_000;
export const closeWithoutReceiptAfterMs = 60_000;
/** A BLOCKED command with nothing ahead of it is left alone for so long. */
const orphanAfterMs = 5_000;

/** One round. Returns what it changed. */
export async function sweep(engine: Engine, blames: Blames): Promise<{ changed: number; orphans: number }> {
  const due = await engine.store.look(engine.process, (tables) =>
    [...tables.commands.values()].flatMap((row) => {
      const why = dueOf(tables, row, engine.store.now, blames);
      return why === undefined ? [] : [{ row, why }];
    }),
  );
  const done = { changed: 0, orphans: 0 };
  for (const { row, why } of due) {
    try {
      if (!(await settle(engine, row, why, blames))) continue;
      done.changed += 1;
      if (why === "orphan") done.orphans += 1;
    } catch (error) {
      if (error instanceof DatabaseAway) throw error;
    }
  }
  return done;
}

/** Whether a round would find anything: one that would not costs no event. */
export function mayBeDue({ store }: Engine, blames: Blames): boolean {
  if (!store.up) return true;
  return [...store.tables.commands.values()].some((row) => dueOf(store.tables, row, store.now, blames) !== undefined);
}

/** Why time changes this command, if it does; in the order of the statement's CASE. */
export function dueOf(tables: Tables, row: CommandRow, now: number, blames: Blames): DueReason | undefined {
  const { state, limits, boundEpoch } = row;
  if (isTerminal(state)) return undefined;
  const past = (at: number | null, ms: number): boolean => at !== null && at + ms <= now;
  if (state === "RETRY_WAIT" && past(row.dueAt, 0)) return "due";
  const waits = isWaiting(state);
  if (waits && !row.reduces && past(row.deadlineAt, 0)) return "deadline";
  if (blames.absence && waits && !row.reduces) {
    const session = tables.sessions.get(row.agentId);
    const away = session === undefined || session.state === "ENDED";
    if (away && past(Math.max(row.updatedAt, session?.endedAt ?? 0), limits.offlineLifeMs)) return "offline";
  }
  const runMs = limits.runTimeoutMs + limits.graceMs;
  const started = state === "ASSIGNED" || state === "RUNNING";
  if (blames.silence && started && boundEpoch !== null && past(row.receivedAt ?? row.assignedAt, runMs))
    return "run-timeout";
  if (blames.silence && state === "CANCELLING" && boundEpoch !== null && past(row.cancellingAt, limits.cancelLimitMs))
    return "cancel-unanswered";
  if (blames.absence && !waits && boundEpoch === null && !row.isRemoval)
    if (past(row.unboundAt, Math.max(limits.offlineLifeMs, runMs))) return "unbound";
  if (state !== "BLOCKED" || !past(row.updatedAt, orphanAfterMs)) return undefined;
  const ahead = [...tables.commands.values()].some(
    (other) => other.deploymentId === row.deploymentId && !isTerminal(other.state) && other.state !== "BLOCKED",
  );
  return ahead ? undefined : "orphan";
}

async function settle(engine: Engine, due: CommandRow, why: DueReason, blames: Blames): Promise<boolean> {
  return engine.store.transact(engine.process, async (tx) => {
    await lockDeployments(tx, [due.deploymentId]);
    const [command] = await lockCommands(tx, { ids: [due.id] });
    if (command === undefined) return false;
    await tx.statement();
    if (engine.rules.sweepLooksAgain && dueOf(tx.store.tables, command, tx.now, blames) !== why) return false; // E3
    const set = changeSet();
    const verdict = apply(engine, tx, command, dueEvent(why), set, { reason: why });
    await write(engine, tx, set);
    return verdict.kind === "moved";
  });
}

/** Sessions of a replica whose commands lack a receipt. */
export function missingReceipts(engine: Engine, replicaId: string) {
  const { now } = engine.store;
  return engine.store.look(engine.process, (tables) => {
    if (tables.installation.get("installation")?.dispatchHeld === true) return [];
    return [...tables.sessions.values()]
      .filter((session) => session.replicaId === replicaId && session.state === "SERVING")
      .flatMap((session) => {
        const late = [...tables.commands.values()].filter(
          (row) =>
            row.agentId === session.id &&
            row.boundEpoch === session.epoch &&
            row.state === "ASSIGNED" &&
            (row.assignedAt ?? now) + pushAgainAfterMs <= now,
        );
        const tooLong =
          late.some((row) => (row.assignedAt ?? now) + closeWithoutReceiptAfterMs <= now) &&
          session.openedAt + closeWithoutReceiptAfterMs <= now;
        return late.length === 0 ? [] : [{ agentId: session.id, epoch: session.epoch, tooLong }];
      });
  });
}

/** Counts the session that ended without a receipt. */
export async function countMissingReceipts(engine: Engine, agentId: string, epoch: number): Promise<void> {
  await engine.store.transact(engine.process, async (tx) => {
    await tx.statement();
    const late = tx
      .all("commands")
      .filter((row) => row.agentId === agentId && row.boundEpoch === epoch && row.state === "ASSIGNED")
      .filter((row) => (row.assignedAt ?? tx.now) + closeWithoutReceiptAfterMs <= tx.now);
    await lockDeployments(
      tx,
      late.map((row) => row.deploymentId),
    );
    const set = changeSet();
    for (const command of await lockCommands(tx, { ids: late.map((row) => row.id) }))
      apply(engine, tx, command, { kind: "no-receipt" }, set, { reason: "NOT_RECEIVED" });
    await write(engine, tx, set);
  });
}
