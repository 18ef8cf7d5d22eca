/**
 * The command engine: every accepted command reaches exactly one recorded
 * outcome, whatever crashes, and its effect happens once.
 *
 *   transitions.ts  what may happen, as data      enqueue.ts    a wish becomes a command
 *   decisions.ts    what messages and times mean  store.ts      locks, one step, its effects
 *   claim.ts        READY becomes ASSIGNED
 *   reports.ts      receipts, results, states     reconcile.ts  sessions end, agents return
 *   progress.ts     how far it is                 afresh.ts     what a replacement gets, and a lost journal
 *   retire.ts       what a dead host owes
 *   forks.ts        what agents have of another history
 *   repair.ts       drift, where it is to be repaired
 *   requests.ts     cancel, retry                 sweep.ts      what time does
 *   history.ts      what has ended and was replaced leaves
 *   apart.ts        owners that failed are told again
 *   queries.ts, shown.ts, rpc.ts  CommandService  ports.ts      what it needs, whom it tells
 */
export { absenceReasons, beginAfresh, convergeLapsed, convergeLost, type Told, unsettled } from "./afresh.ts";
export { telling, tellApart, type Without } from "./apart.ts";
export { agentsWithReady, type Cancelling, cancelling, claim, unreceipted, withReady } from "./claim.ts";
export { converge, type ConvergeWish, defaultLimits, type Enqueued, type Limits } from "./enqueue.ts";
export { type Forked, settleForks } from "./forks.ts";
export { deletesSpecs, movesEnded } from "./history.ts";
export type { AgentSignals, ChangedCommand, Claimant, EnginePorts, Here, Owner, PushedCommand } from "./ports.ts";
export { readCommands } from "./queries.ts";
export { agentGone, reconcile, sessionEnded, sessionsEnded, type SyncDecided } from "./reconcile.ts";
export { lockSessions, recordReports, recordStates, type From, type Report, type ResultAnswer } from "./reports.ts";
export { recordProgress } from "./progress.ts";
export { again, renewing } from "./requests.ts";
export { retireAgent, type Settled } from "./retire.ts";
export { registerCommands } from "./rpc.ts";
export { type Blames, closeWithoutReceiptAfterMs, countMissingReceipts, missingReceipts, sweep } from "./sweep.ts";
export {
  absence,
  actionFor,
  answerAfterEnd,
  answerTo,
  dueEvent,
  type DueReason,
  goesOn,
  receiptEvent,
  resultEvent,
  retryDelayMs,
} from "./decisions.ts";
export {
  type CommandEvent,
  type CommandEventKind,
  type CommandFacts,
  type Effect,
  isInFlight,
  isTerminal,
  isWaiting,
  sessionsWithoutReceiptLimit,
  step,
  transitions,
  type Verdict,
} from "./transitions.ts";
