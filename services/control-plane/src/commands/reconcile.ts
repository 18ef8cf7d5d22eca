/**
 * What becomes of commands when sessions end and agents come back.
 *
 * E2: the end of a session burns neither an attempt nor a retry: it only unbinds.
 * E7: no attempt starts before the one before it is reported ended or proven absent.
 */
import { type JournalEntry, SyncDecision_Action } from "@bowline/contract/agent";
import { sql } from "kysely";
import { lockDeployments } from "../deployments/index.ts";
import type { Work } from "../platform/transactions.ts";
import { finishAnyway } from "./apart.ts";
import { absence, actionFor, goesOn } from "./decisions.ts";
import { findEnded } from "./history.ts";
import type { EnginePorts, LockedCommand } from "./ports.ts";
import { apply, changeSet, type ChangeSet, lockCommands } from "./store.ts";
import { isInFlight, isTerminal } from "./transitions.ts";

export interface SyncFacts {
  agentId: string;
  epoch: number;
  /** The same journal id as recorded, and a counter not below the recorded one. */
  journalWhole: boolean;
  journal: readonly JournalEntry[];
}

export interface SyncDecided {
  commandId: string;
  attempt: number;
  action: SyncDecision_Action;
}

/**
 * Reconciles a complete Sync with what the database has in flight for the
 * agent. The caller holds the session's row. Results that Sync carried are
 * recorded before this.
 */
export async function reconcile(ports: EnginePorts, work: Work, facts: SyncFacts): Promise<SyncDecided[]> {
  const named = facts.journal.map((entry) => entry.commandId);
  const open = await lockOfAgents(work, [facts.agentId], named);
  const known = new Set(open.map((command) => command.id));
  const left = await findEnded(
    work.tx,
    named.filter((id) => !known.has(id)),
  );
  const commands = [...open, ...left.filter((command) => command.agentId === facts.agentId)];
  const found = new Set(commands.map((command) => command.id));
  const listed = Map.groupBy(facts.journal, (entry) => entry.commandId);
  const set = changeSet();
  const decided: SyncDecided[] = [];
  for (const command of commands) {
    const entries = listed.get(command.id) ?? [];
    for (const entry of entries) decided.push(decideListed(ports, work, command, entry, facts.epoch, set));
    // Another attempt that is listed (its result was not acknowledged, or it still runs) says nothing of this one.
    if (isInFlight(command.state) && !entries.some((entry) => entry.attempt === command.attempt)) {
      apply(ports, work, command, absence(command.state, facts), set);
    }
  }
  for (const entry of facts.journal) {
    // Unknown here is not unknown to the world: a restored database forgets. Never "abandon".
    if (!found.has(entry.commandId)) {
      decided.push({ commandId: entry.commandId, attempt: entry.attempt, action: SyncDecision_Action.HOLD });
    }
  }
  await finishAnyway(ports, work, set);
  return decided;
}

function decideListed(
  ports: EnginePorts,
  work: Work,
  command: LockedCommand,
  entry: JournalEntry,
  epoch: number,
  set: ChangeSet,
): SyncDecided {
  const about = { commandId: entry.commandId, attempt: entry.attempt };
  if (goesOn(command, entry.attempt)) apply(ports, work, command, { kind: "back-with-it", epoch }, set);
  return { ...about, action: actionFor(command, entry.attempt) };
}

/** Unbinds everything that was bound to the session that ended. */
export async function sessionEnded(ports: EnginePorts, work: Work, agentId: string, epoch: number): Promise<void> {
  await sessionsEnded(ports, work, [{ agentId, epoch }]);
}

/** The same for one session each of several agents. */
export async function sessionsEnded(
  ports: EnginePorts,
  work: Work,
  sessions: readonly { agentId: string; epoch: number }[],
): Promise<void> {
  if (sessions.length === 0) return;
  const epochs = new Map(sessions.map(({ agentId, epoch }) => [agentId, epoch]));
  const set = changeSet();
  for (const command of await lockOfAgents(work, [...epochs.keys()], [])) {
    if (!isInFlight(command.state) || command.boundEpoch !== epochs.get(command.agentId)) continue;
    apply(ports, work, command, { kind: "session-ended" }, set);
  }
  await finishAnyway(ports, work, set);
}

/**
 * The agent never comes back: revoked, or retired with its host. A removal waits for retire (C3). Returns how many
 * commands have ended.
 */
export async function agentGone(
  ports: EnginePorts,
  work: Work,
  agentId: string,
  how: { retired: boolean },
): Promise<number> {
  const set = changeSet();
  for (const command of await lockOfAgents(work, [agentId], [])) {
    apply(ports, work, command, { kind: "agent-gone", retired: how.retired }, set);
  }
  await finishAnyway(ports, work, set);
  return new Set(set.changes.filter((change) => isTerminal(change.state)).map((change) => change.id)).size;
}

/** Locks the deployments and then the commands of agents that are open, and those that are named besides. */
async function lockOfAgents(
  work: Work,
  agentIds: readonly string[],
  besides: readonly string[],
): Promise<LockedCommand[]> {
  const open = await work.tx
    .selectFrom("command_states")
    .select(["command_id", "deployment_id"])
    .where("agent_id", "=", sql<string>`ANY(${agentIds}::text[])`)
    .where((where) =>
      where.or([
        where("state", "in", ["BLOCKED", "READY", "ASSIGNED", "RUNNING", "CANCELLING", "RETRY_WAIT"]),
        ...(besides.length > 0 ? [where("command_id", "in", [...besides])] : []),
      ]),
    )
    .execute();
  await lockDeployments(
    work.tx,
    open.map((row) => row.deployment_id),
  );
  return lockCommands(work.tx, { ids: open.map((row) => row.command_id) });
}
