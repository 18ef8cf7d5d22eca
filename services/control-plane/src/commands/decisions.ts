/**
 * What messages, absences and times mean for a command: the decisions between
 * the statements that lock rows and the step that moves them. Pure, so that the
 * simulation of tests/simulation takes the same.
 *
 * E7: no attempt starts before the one before it is reported ended or proven absent.
 */
import {
  CommandReceipt_Disposition,
  type CommandReceipt,
  DeployResult_Outcome,
  type DeployResult,
  ResultAck_Disposition,
  SyncDecision_Action,
} from "@bowline/contract/agent";
import type { CommandState } from "@bowline/db";
import { type CancelReason, type CommandEvent, type Fence, isInFlight, type Verdict } from "./transitions.ts";

/** Full jitter over a doubling wait: 1 s, 2 s, 4 s … 5 min. */
const retryBaseMs = 1_000;
const retryCapMs = 300_000;

/** Undefined: it says nothing that this build knows. */
export function receiptEvent(receipt: CommandReceipt, fence: Fence): CommandEvent | undefined {
  switch (receipt.disposition) {
    case CommandReceipt_Disposition.ACCEPTED:
    case CommandReceipt_Disposition.DUPLICATE:
      return { kind: "received", fence };
    case CommandReceipt_Disposition.NOT_NOW:
      return { kind: "not-now", fence };
    case CommandReceipt_Disposition.REJECTED:
      return { kind: "rejected", fence, worthRetry: false };
    default:
      return undefined; // a disposition of a newer agent: the receipt stays missing, and is asked for again
  }
}

export function resultEvent(result: DeployResult, fence: Fence): CommandEvent {
  switch (result.outcome) {
    case DeployResult_Outcome.SUCCEEDED:
      return { kind: "succeeded", fence };
    case DeployResult_Outcome.CANCELLED:
      return { kind: "ended", fence };
    default:
      return { kind: "failed", fence, worthRetry: result.worthRetry };
  }
}

/** Why an attempt ended as the result says. An agent that ends one because it was asked to says nothing: then the asking is why. */
export function reasonOfResult(
  result: Pick<DeployResult, "outcome" | "reason">,
  command: { cancelReason: CancelReason | null },
): string {
  if (result.reason !== "" || result.outcome === DeployResult_Outcome.SUCCEEDED) return result.reason;
  switch (command.cancelReason) {
    case "REQUESTED":
      return "CANCEL_REQUESTED";
    case "RUN_TIMEOUT":
      return "RUN_TIMEOUT";
    default:
      return ""; // a newer wish, which says more; or nobody asked
  }
}

/** What an agent is told whose result comes after the command's end. */
export function answerAfterEnd(command: { outcomeAttempt: number | null }, attempt: number): ResultAck_Disposition {
  return command.outcomeAttempt === attempt ? ResultAck_Disposition.ALREADY_RECORDED : ResultAck_Disposition.OBSOLETE;
}

/** What an agent is told of its result, by what the step made of it. */
export function answerTo(verdict: Verdict): ResultAck_Disposition {
  switch (verdict.kind) {
    case "moved":
      return ResultAck_Disposition.RECORDED;
    case "stale":
      return verdict.answer === "RESEND" ? ResultAck_Disposition.RESEND : ResultAck_Disposition.OBSOLETE;
    case "refused":
      return ResultAck_Disposition.OBSOLETE;
    default:
      return verdict satisfies never;
  }
}

/** What a complete Sync that does not list a command in flight proves. */
export function absence(state: CommandState, sync: { epoch: number; journalWhole: boolean }): CommandEvent {
  const kind = state === "CANCELLING" || sync.journalWhole ? "back-whole-without-it" : "back-with-another-journal";
  return { kind, epoch: sync.epoch };
}

/** Whether an attempt that an agent's journal lists is the one that is in flight; else it has to end (E7). */
export function goesOn(command: { state: CommandState; attempt: number }, attempt: number): boolean {
  return isInFlight(command.state) && command.attempt === attempt;
}

/** What the agent is to do with a listed attempt; `command` as it is after it was bound. */
export function actionFor(command: { state: CommandState; attempt: number }, attempt: number): SyncDecision_Action {
  if (!goesOn(command, attempt) || command.state === "CANCELLING") return SyncDecision_Action.CANCEL;
  // No receipt was recorded: it got lost, the agent says it again.
  return command.state === "ASSIGNED" ? SyncDecision_Action.REPORT_AGAIN : SyncDecision_Action.CONTINUE;
}

/** Why time changes a command. */
export type DueReason = "due" | "deadline" | "offline" | "run-timeout" | "cancel-unanswered" | "unbound" | "orphan";

export function dueEvent(why: DueReason): CommandEvent {
  switch (why) {
    case "due":
      return { kind: "due" };
    case "deadline":
      return { kind: "time-over", why: "DEADLINE" };
    case "offline":
      return { kind: "time-over", why: "OFFLINE_LIFE" };
    case "run-timeout":
      return { kind: "run-timeout" };
    case "cancel-unanswered":
      return { kind: "cancel-unanswered" };
    case "unbound":
      return { kind: "unbound-too-long" };
    case "orphan":
      return { kind: "ahead-ended" };
    default:
      return why satisfies never;
  }
}

/** How long a try waits after so many failures. */
export function retryDelayMs(failures: number, random: () => number): number {
  return Math.max(retryBaseMs / 2, random() * Math.min(retryCapMs, retryBaseMs * 2 ** Math.min(failures, 20)));
}
