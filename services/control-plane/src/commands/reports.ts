/**
 * What agents report about commands: receipts, results, observed state. Sets
 * from the start; many agents share a commit. progress.ts has progress.
 *
 * E1: the session's row is locked FOR SHARE, and its epoch must be that of the
 *     stream on which the message came.
 * E2: the attempt must be the one that is in flight.
 */
import {
  type CommandReceipt,
  DeployResult_Outcome,
  type DeployResult,
  ResultAck_Disposition,
} from "@bowline/contract/agent";
import { crashPoint } from "@bowline/kernel";
import { noTraces } from "@bowline/traces";
import { lockDeployments, recordConverged, recordObserved, recordStrays } from "../deployments/index.ts";
import { sql } from "kysely";
import { MovedOn, transact, type Tx, type Work } from "../platform/transactions.ts";
import { telling, type Without } from "./apart.ts";
import { answerAfterEnd, answerTo, reasonOfResult, receiptEvent, resultEvent } from "./decisions.ts";
import { findEnded } from "./history.ts";
import type { EnginePorts, LockedCommand } from "./ports.ts";
import { apply, changeSet, type ChangeSet, lockCommands, write } from "./store.ts";
import { type Fence, isTerminal } from "./transitions.ts";

/** A message and the stream on which it came. */
export interface From<Message> {
  agentId: string;
  epoch: number;
  message: Message;
}

export type ResultAnswer = { agentId: string; commandId: string; attempt: number; disposition: ResultAck_Disposition };

export type Report = CommandReceipt | DeployResult;

/**
 * Records receipts and results, in their order. A receipt that comes too late or from elsewhere changes nothing; of
 * results each is recorded once, the first wins. Says of each result what became of it, in the place of its report;
 * receipts have no answer.
 */
export async function recordReports(
  ports: EnginePorts,
  reports: readonly From<Report>[],
  without?: Without,
): Promise<(ResultAnswer | undefined)[]> {
  if (reports.length === 0) return [];
  const at = Date.now();
  return transact(ports.db, async (work) => {
    const answers = reports.map((report) => unlessKnown(report));
    const effects: Effects = { converged: [], late: [] };
    // The order of locks (T2): sessions (E1), deployments (E3), commands; owners lock their rows after these.
    const epochs = await lockSessions(
      work.tx,
      reports.map((from) => from.agentId),
    );
    const commands = await lockReported(ports, work, reports);
    const set = changeSet();
    for (const [place, { agentId, epoch, message }] of reports.entries()) {
      const command = commands.get(message.commandId);
      if (command === undefined || command.agentId !== agentId) continue; // another agent's: as if unknown
      trace(ports, work, command, message, at);
      const fence = { attempt: message.attempt, epoch, current: epochs.get(agentId) === epoch };
      if (message.$typeName === "bowline.agent.v1.CommandReceipt") {
        recordReceipt(ports, work, message, command, fence, set);
        continue;
      }
      const answer = answers[place];
      if (answer !== undefined) answer.disposition = recordResult(ports, work, message, command, fence, set, effects);
    }
    await write(ports, work, set);
    for (const late of effects.late) await recordLate(work.tx, late);
    await recordConverged(work.tx, effects.converged);
    await telling(ports, without)(work, set.changes);
    if (set.changes.some((change) => isTerminal(change.state))) crashPoint("results.before-commit");
    return answers;
  });
}

/** The answer where no command is found. */
function unlessKnown({ agentId, message }: From<Report>): ResultAnswer | undefined {
  if (message.$typeName === "bowline.agent.v1.CommandReceipt") return undefined;
  const { commandId, attempt } = message;
  return { agentId, commandId, attempt, disposition: ResultAck_Disposition.UNKNOWN };
}

function trace(ports: EnginePorts, work: Work, command: LockedCommand, message: Report, at: number): void {
  const what = message.$typeName === "bowline.agent.v1.CommandReceipt" ? "command.receipt" : "command.result";
  const { id, attempt, traceParent: parent } = command;
  const attributes = { "bowline.command": id, "bowline.attempt": attempt };
  const span = (ports.traces ?? noTraces).part(what, { parent, at, attributes });
  work.after(() => span.end());
}

function recordReceipt(
  ports: EnginePorts,
  work: Work,
  receipt: CommandReceipt,
  command: LockedCommand,
  fence: Fence,
  set: ChangeSet,
): void {
  const event = receiptEvent(receipt, fence);
  if (event === undefined) return;
  const { reason, message } = receipt;
  apply(ports, work, command, event, set, reason === "" ? {} : { reason, message });
}

/** What a set of results says of deployments. */
interface Effects {
  converged: { deploymentId: string; generation: number }[];
  /** Outcomes of commands that were LOST by then. */
  late: { commandId: string; outcome: string }[];
}

function recordResult(
  ports: EnginePorts,
  work: Work,
  result: DeployResult,
  command: LockedCommand,
  fence: Fence,
  set: ChangeSet,
  effects: Effects,
): ResultAck_Disposition {
  if (isTerminal(command.state)) {
    if (command.state === "LOST" && result.attempt === command.attempt) {
      // E1: also of what is only news. The agent may have another host by now, where this is not so.
      if (!fence.current) return ResultAck_Disposition.RESEND;
      // After LOST the effect is news, not an outcome: kept beside, and handed on as observed state.
      effects.late.push({ commandId: command.id, outcome: `${outcomeName(result.outcome)} ${result.reason}`.trim() });
      if (result.outcome === DeployResult_Outcome.SUCCEEDED) effects.converged.push(command);
    }
    return answerAfterEnd(command, result.attempt);
  }
  const verdict = apply(ports, work, command, resultEvent(result, fence), set, {
    reason: reasonOfResult(result, command),
    message: result.message,
  });
  if (verdict.kind === "moved" && verdict.to === "SUCCEEDED") effects.converged.push(command);
  return answerTo(verdict);
}

async function recordLate(tx: Tx, { commandId, outcome }: Effects["late"][number]): Promise<void> {
  const late = { late_outcome: outcome };
  await tx.updateTable("command_states").set(late).where("command_id", "=", commandId).execute();
  await tx.updateTable("ended_commands").set(late).where("id", "=", commandId).execute(); // where it has left
}

function outcomeName(outcome: DeployResult_Outcome): string {
  return outcome === DeployResult_Outcome.SUCCEEDED
    ? "SUCCEEDED"
    : outcome === DeployResult_Outcome.CANCELLED
      ? "CANCELLED"
      : "FAILED";
}

/** The commands that messages are about, where they are their agent's; words about another agent's are told. */
export async function ownOf(
  ports: EnginePorts,
  work: Work,
  messages: readonly From<{ commandId: string }>[],
): Promise<{ own: { id: string; deployment_id: string }[]; left: LockedCommand[] }> {
  if (messages.length === 0) return { own: [], left: [] };
  const ids = [...new Set(messages.map(({ message }) => message.commandId))];
  const rows = await work.tx
    .selectFrom("commands")
    .select(["id", "deployment_id", "agent_id"])
    .where("id", "=", sql<string>`any(${ids})`)
    .execute();
  const agentOf = new Map(rows.map((row) => [row.id, row.agent_id]));
  const left = await findEnded(
    work.tx,
    ids.filter((id) => !agentOf.has(id)),
  );
  for (const { id, agentId } of left) agentOf.set(id, agentId);
  const own = new Set<string>();
  for (const { agentId, message } of messages) {
    const owner = agentOf.get(message.commandId);
    if (owner === agentId) own.add(message.commandId);
    else if (owner !== undefined) work.after(() => ports.foreignCommand?.(agentId, message.commandId));
  }
  return { own: rows.filter((row) => own.has(row.id)), left: left.filter((command) => own.has(command.id)) };
}

/** Locks the deployments and commands that agents speak of, where they are theirs; what has left comes as it ended. */
async function lockReported(
  ports: EnginePorts,
  work: Work,
  messages: readonly From<{ commandId: string }>[],
): Promise<Map<string, LockedCommand>> {
  const { tx } = work;
  const { own, left } = await ownOf(ports, work, messages);
  await lockDeployments(tx, [...own.map((row) => row.deployment_id), ...left.map((command) => command.deploymentId)]);
  const locked = await lockCommands(tx, { ids: own.map((row) => row.id) });
  if (locked.length < own.length) throw new MovedOn("a command left meanwhile");
  return new Map([...left, ...locked].map((command) => [command.id, command]));
}

/** Locks sessions FOR SHARE in order (E1) and returns the epochs of those that are open. */
export async function lockSessions(tx: Tx, agentIds: readonly string[]): Promise<Map<string, number>> {
  const rows = await tx
    .selectFrom("sessions")
    .select(["agent_id", "epoch"])
    .where("agent_id", "=", sql<string>`any(${[...new Set(agentIds)]})`)
    .where("state", "<>", "ENDED")
    .orderBy("agent_id")
    .forShare()
    .execute();
  return new Map(rows.map((row) => [row.agent_id, row.epoch]));
}

/** Records what an agent observed, if the stream on which it came is still its session; tells the owners. */
export async function recordStates(
  ports: EnginePorts,
  from: { agentId: string; epoch: number },
  observation: number,
  states: Parameters<typeof recordObserved>[3],
): Promise<void> {
  await transact(ports.db, async (work) => {
    const epochs = await lockSessions(work.tx, [from.agentId]);
    if (epochs.get(from.agentId) !== from.epoch) return;
    await recordStrays(work.tx, from, states);
    const taken = await recordObserved(work.tx, from.agentId, observation, states);
    if (taken.length === 0) return;
    const owners = await work.tx.selectFrom("deployments").select(["id", "kind"]).where("id", "in", taken).execute();
    for (const [kind, group] of Map.groupBy(owners, (row) => row.kind)) {
      await ports.owners.get(kind)?.observed?.(
        work,
        group.map((row) => row.id),
      );
    }
  });
}
