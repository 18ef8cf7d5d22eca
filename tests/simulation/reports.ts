/** What agents say, and what becomes of commands when they come and go: commands/reports.ts, reconcile.ts and retire.ts of the product. */
import {
  type CommandReceipt,
  type DeployResult,
  DeployResult_Outcome,
  ResultAck_Disposition,
  SyncDecision_Action,
} from "@bowline/contract/agent";
import {
  absence,
  actionFor,
  answerAfterEnd,
  answerTo,
  goesOn,
  isInFlight,
  isTerminal,
  receiptEvent,
  resultEvent,
} from "../../services/control-plane/src/commands/index.ts";
import {
  apply,
  changeSet,
  type ChangeSet,
  type Engine,
  type Locked,
  lockCommands,
  lockDeployments,
  lockSessions,
  write,
} from "./engine.ts";
import type { Tx } from "./store.ts";

export interface From<Message> {
  agentId: string;
  epoch: number;
  message: Message;
}

type Fence = Parameters<typeof receiptEvent>[1];

/** In one transaction. */
export async function recordReceipts(engine: Engine, tx: Tx, receipts: readonly From<CommandReceipt>[]): Promise<void> {
  await reported(engine, tx, receipts, ({ message }, command, fence, set) => {
    const event = receiptEvent(message, fence);
    if (event !== undefined)
      apply(engine, tx, command, event, set, message.reason === "" ? {} : { reason: message.reason });
  });
}

export interface ResultAnswer {
  agentId: string;
  commandId: string;
  attempt: number;
  disposition: ResultAck_Disposition;
}

/** In one transaction. */
export async function recordResults(
  engine: Engine,
  tx: Tx,
  results: readonly From<DeployResult>[],
): Promise<ResultAnswer[]> {
  const answers: ResultAnswer[] = [];
  const answer = ({ agentId, message }: From<DeployResult>, disposition: ResultAck_Disposition): void => {
    answers.push({ agentId, commandId: message.commandId, attempt: message.attempt, disposition });
  };
  const seen = await reported(engine, tx, results, (from, command, fence, set) => {
    const { message } = from;
    if (isTerminal(command.state) && engine.rules.endsOnce) {
      if (command.state === "LOST" && message.attempt === command.attempt) {
        if (!fence.current) return answer(from, ResultAck_Disposition.RESEND); // E1: also of what is only news
        tx.patch("commands", command.id, { lateOutcome: String(message.outcome) });
        if (message.outcome === DeployResult_Outcome.SUCCEEDED) recordConverged(tx, command);
      }
      return answer(from, answerAfterEnd(command, message.attempt));
    }
    const verdict = apply(engine, tx, command, resultEvent(message, fence), set, { reason: message.reason });
    if (verdict.kind === "moved" && verdict.to === "SUCCEEDED") recordConverged(tx, command);
    answer(from, answerTo(verdict));
  });
  for (const result of results) if (!seen.has(result)) answer(result, ResultAck_Disposition.UNKNOWN);
  return answers;
}

function recordConverged(tx: Tx, { deploymentId, generation }: Locked): void {
  const row = tx.get("deployments", deploymentId);
  if (row === undefined || row.observedGeneration > generation) return;
  if (tx.get("generations", `${deploymentId} ${generation}`) === undefined) return;
  const isAbsent = row.isAbsent || (row.desired === "ABSENT" && row.generation === generation);
  tx.put("deployments", { ...row, observedGeneration: generation, isAbsent });
}

/** Locks in order: sessions (E1), deployments (E3), commands. Returns the messages whose command is their agent's. */
async function reported<Message extends { commandId: string; attempt: number }>(
  engine: Engine,
  tx: Tx,
  messages: readonly From<Message>[],
  each: (from: From<Message>, command: Locked, fence: Fence, set: ChangeSet) => void,
): Promise<Set<From<Message>>> {
  const epochs = await lockSessions(
    engine,
    tx,
    messages.map((from) => from.agentId),
  );
  const own = messages.filter(({ agentId, message }) => tx.get("commands", message.commandId)?.agentId === agentId);
  const rows = own.flatMap(({ message }) => tx.get("commands", message.commandId) ?? []);
  await lockDeployments(
    tx,
    rows.map((row) => row.deploymentId),
  );
  const locked = await lockCommands(tx, { ids: rows.map((row) => row.id) });
  const commands = new Map(locked.map((command) => [command.id, command]));
  const set = changeSet();
  for (const from of own) {
    const command = commands.get(from.message.commandId);
    if (command === undefined) continue;
    const { agentId, epoch, message } = from;
    each(from, command, { attempt: message.attempt, epoch, current: epochs.get(agentId) === epoch }, set);
  }
  await write(engine, tx, set);
  return new Set(own);
}

export interface Listed {
  commandId: string;
  attempt: number;
}

/** Reconciles a complete Sync. The caller holds the session's row. */
export async function reconcile(
  engine: Engine,
  tx: Tx,
  sync: { agentId: string; epoch: number; journalWhole: boolean; journal: readonly Listed[] },
): Promise<(Listed & { action: SyncDecision_Action })[]> {
  const listed = Map.groupBy(sync.journal, (entry) => entry.commandId);
  const commands = await lockOfAgent(tx, sync.agentId, [...listed.keys()]);
  const found = new Set(commands.map((command) => command.id));
  const decided: (Listed & { action: SyncDecision_Action })[] = [];
  const set = changeSet();
  for (const command of commands) {
    const entries = listed.get(command.id) ?? [];
    for (const entry of entries) {
      if (goesOn(command, entry.attempt)) apply(engine, tx, command, { kind: "back-with-it", epoch: sync.epoch }, set);
      decided.push({ ...entry, action: actionFor(command, entry.attempt) });
    }
    if (isInFlight(command.state) && !entries.some((entry) => entry.attempt === command.attempt))
      apply(engine, tx, command, absence(command.state, sync), set);
  }
  for (const entry of sync.journal)
    if (!found.has(entry.commandId)) decided.push({ ...entry, action: SyncDecision_Action.HOLD });
  await write(engine, tx, set);
  return decided;
}

/** Unbinds everything that was bound to the session that ended. */
export async function sessionEnded(engine: Engine, tx: Tx, agentId: string, epoch: number): Promise<void> {
  if (!engine.rules.endUnbinds) return;
  const set = changeSet();
  for (const command of await lockOfAgent(tx, agentId, []))
    if (isInFlight(command.state) && command.boundEpoch === epoch)
      apply(engine, tx, command, { kind: "session-ended" }, set);
  await write(engine, tx, set);
}

/** The agent never comes back. A removal waits for retire. */
export async function agentGone(engine: Engine, tx: Tx, agentId: string, retired: boolean): Promise<void> {
  const set = changeSet();
  const reason = retired ? "AGENT_RETIRED" : "AGENT_REVOKED";
  for (const command of await lockOfAgent(tx, agentId, []))
    apply(engine, tx, command, { kind: "agent-gone", retired }, set, { reason });
  await write(engine, tx, set);
}

/** Settles everything that an agent has open or present. The caller has ended the session. */
export async function retireAgent(engine: Engine, tx: Tx, agentId: string): Promise<void> {
  const present = tx.all("deployments").filter((row) => row.agentId === agentId && !row.isAbsent);
  await lockDeployments(
    tx,
    present.map((row) => row.id),
  );
  await agentGone(engine, tx, agentId, true);
  for (const { id } of present) tx.patch("deployments", id, { desired: "ABSENT", isAbsent: true, heldReason: "" });
}

/** Locks the deployments and then the commands of an agent that are open, and those that are named besides. */
async function lockOfAgent(tx: Tx, agentId: string, besides: readonly string[]): Promise<Locked[]> {
  await tx.statement();
  const rows = tx
    .all("commands")
    .filter((row) => row.agentId === agentId && (!isTerminal(row.state) || besides.includes(row.id)));
  await lockDeployments(
    tx,
    rows.map((row) => row.deploymentId),
  );
  return lockCommands(tx, { ids: rows.map((row) => row.id) });
}
