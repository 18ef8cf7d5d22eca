/**
 * What may happen to a command, as data and as one pure function. Used by every
 * statement that changes a command, by the documentation and by the model test.
 *
 * C1: a terminal state has no way out.
 * C2: every state that waits for an agent can be left without that agent.
 * C3: a removal is never cancelled by a person, expired, lost or out of retries.
 * C4: whatever would become READY or RETRY_WAIT while a newer one waits ends
 *     instead, and the newer one goes on.
 *
 * W = BLOCKED, READY, RETRY_WAIT (no agent has it); F = ASSIGNED, RUNNING.
 * Long because the table and the function that follows it are read side by side.
 */
import type { CommandState } from "@bowline/db";

/** What the rules look at; read FOR UPDATE, so that it can't change meanwhile. */
export interface CommandFacts {
  state: CommandState;
  attempt: number;
  failures: number;
  boundEpoch: number | null;
  everReceived: boolean;
  sessionsWithoutReceipt: number;
  cancelReason: CancelReason | null;
  isRemoval: boolean;
  reduces: boolean;
  maxRetries: number;
  /** Another command of the same deployment is BLOCKED behind this one. */
  newerWaits: boolean;
  /** The deadline from enqueue, if any, lies ahead. */
  timeLeft: boolean;
}

export type CancelReason = "REQUESTED" | "NEWER" | "RUN_TIMEOUT";

/** What a message of an agent must match (E1, E2). `current` says that its session row is open with that epoch. */
export interface Fence {
  attempt: number;
  epoch: number;
  current: boolean;
}

export type CommandEvent =
  | { kind: "newer"; reduces: boolean }
  | { kind: "ahead-ended" }
  | { kind: "due" }
  | { kind: "cancel" }
  | { kind: "agent-gone"; retired: boolean }
  | { kind: "time-over"; why: "DEADLINE" | "OFFLINE_LIFE" }
  | { kind: "claimed"; epoch: number }
  | { kind: "received"; fence: Fence }
  | { kind: "not-now"; fence: Fence }
  | { kind: "rejected"; fence: Fence; worthRetry: boolean }
  | { kind: "no-receipt" }
  | { kind: "succeeded"; fence: Fence }
  | { kind: "failed"; fence: Fence; worthRetry: boolean }
  | { kind: "ended"; fence: Fence }
  | { kind: "run-timeout" }
  | { kind: "cancel-unanswered" }
  | { kind: "session-ended" }
  | { kind: "back-with-it"; epoch: number }
  | { kind: "back-whole-without-it"; epoch: number }
  | { kind: "back-with-another-journal"; epoch: number }
  | { kind: "unbound-too-long" }
  | { kind: "forked"; reissued: boolean };

export type CommandEventKind = CommandEvent["kind"];

/** Where each event may lead. An event that is missing in a state is refused there. */
export const transitions = {
  BLOCKED: {
    forked: ["SUPERSEDED", "CANCELLED"],
    newer: ["SUPERSEDED"],
    "ahead-ended": ["READY"],
    cancel: ["CANCELLED"],
    "agent-gone": ["CANCELLED", "BLOCKED"],
    "time-over": ["EXPIRED", "FAILED"],
  },
  READY: {
    forked: ["SUPERSEDED", "CANCELLED"],
    newer: ["SUPERSEDED"],
    cancel: ["CANCELLED"],
    "agent-gone": ["CANCELLED", "READY"],
    "time-over": ["EXPIRED", "FAILED"],
    claimed: ["ASSIGNED"],
  },
  RETRY_WAIT: {
    forked: ["SUPERSEDED", "CANCELLED"],
    newer: ["SUPERSEDED"],
    due: ["READY"],
    cancel: ["CANCELLED"],
    "agent-gone": ["CANCELLED", "RETRY_WAIT"],
    "time-over": ["EXPIRED", "FAILED"],
  },
  ASSIGNED: {
    forked: ["SUPERSEDED", "LOST"],
    newer: ["ASSIGNED", "CANCELLING"],
    cancel: ["CANCELLING"],
    "agent-gone": ["LOST", "ASSIGNED"],
    received: ["RUNNING"],
    "not-now": ["READY", "SUPERSEDED"],
    rejected: ["RETRY_WAIT", "FAILED"],
    "no-receipt": ["ASSIGNED", "FAILED", "RETRY_WAIT"],
    succeeded: ["SUCCEEDED"],
    failed: ["RETRY_WAIT", "FAILED"],
    ended: ["RETRY_WAIT", "FAILED"],
    "run-timeout": ["CANCELLING"],
    "session-ended": ["ASSIGNED"],
    "back-with-it": ["ASSIGNED"],
    "back-whole-without-it": ["ASSIGNED"],
    "back-with-another-journal": ["READY", "SUPERSEDED"],
    "unbound-too-long": ["LOST", "ASSIGNED"],
  },
  RUNNING: {
    forked: ["SUPERSEDED", "LOST"],
    newer: ["RUNNING", "CANCELLING"],
    cancel: ["CANCELLING"],
    "agent-gone": ["LOST", "RUNNING"],
    received: ["RUNNING"],
    rejected: ["RETRY_WAIT", "FAILED"],
    succeeded: ["SUCCEEDED"],
    failed: ["RETRY_WAIT", "FAILED"],
    ended: ["RETRY_WAIT", "FAILED"],
    "run-timeout": ["CANCELLING"],
    "session-ended": ["RUNNING"],
    "back-with-it": ["RUNNING"],
    "back-whole-without-it": ["READY", "SUPERSEDED"],
    "back-with-another-journal": ["READY", "SUPERSEDED"],
    "unbound-too-long": ["LOST", "RUNNING"],
  },
  CANCELLING: {
    forked: ["SUPERSEDED", "LOST"],
    newer: ["CANCELLING"],
    cancel: ["CANCELLING"],
    "agent-gone": ["LOST", "CANCELLING"],
    received: ["CANCELLING"],
    "not-now": ["CANCELLED", "RETRY_WAIT", "FAILED"],
    rejected: ["CANCELLED", "RETRY_WAIT", "FAILED"],
    succeeded: ["SUCCEEDED"],
    failed: ["CANCELLED", "RETRY_WAIT", "FAILED"],
    ended: ["CANCELLED", "RETRY_WAIT", "FAILED"],
    "cancel-unanswered": ["LOST", "CANCELLING"],
    "session-ended": ["CANCELLING"],
    "back-with-it": ["CANCELLING"],
    "back-whole-without-it": ["CANCELLED", "RETRY_WAIT", "FAILED"],
    "back-with-another-journal": ["CANCELLED", "RETRY_WAIT", "FAILED"],
    "unbound-too-long": ["LOST", "CANCELLING"],
  },
  SUCCEEDED: {},
  FAILED: {},
  CANCELLED: {},
  SUPERSEDED: {},
  EXPIRED: {},
  LOST: {},
} as const satisfies Record<CommandState, Partial<Record<CommandEventKind, readonly CommandState[]>>>;

/** What a step says to whoever caused it. */
export type Verdict =
  /** The state (perhaps the same) is the answer. */
  | { kind: "moved"; to: CommandState; facts: CommandFacts; effects: readonly Effect[] }
  /** The fence did not match: nothing changed. RESEND: the epoch moved; OBSOLETE: of an older attempt. */
  | { kind: "stale"; answer: "RESEND" | "OBSOLETE" }
  /** This event means nothing in this state: nothing changed. */
  | { kind: "refused"; why: "REMOVAL_NOT_CANCELLABLE" | "COMMAND_ENDED" | "NOT_POSSIBLE" };

/** What else has to happen, in the same transaction or right after it. */
export type Effect = "send-cancel" | "push-again" | "close-session" | "defect" | "hold" | "promote-next";

/** Sessions that may end without a receipt before a command fails with NOT_RECEIVED: one may be chance, three are not. */
export const sessionsWithoutReceiptLimit = 3;

/** Decides what `event` does to a command. Pure; the caller writes the answer. */
export function step(facts: CommandFacts, event: CommandEvent): Verdict {
  const allowed: Partial<Record<CommandEventKind, readonly CommandState[]>> = transitions[facts.state];
  if ("fence" in event) {
    const stale = checkFence(facts, event.fence);
    if (stale !== undefined) return { kind: "stale", answer: stale };
  }
  if (allowed[event.kind] === undefined) {
    return { kind: "refused", why: isTerminal(facts.state) ? "COMMAND_ENDED" : "NOT_POSSIBLE" };
  }
  return decide(facts, event);
}

function checkFence(facts: CommandFacts, fence: Fence): "RESEND" | "OBSOLETE" | undefined {
  if (isTerminal(facts.state)) return "OBSOLETE";
  if (fence.attempt !== facts.attempt || isWaiting(facts.state)) return "OBSOLETE";
  if (!fence.current || facts.boundEpoch !== fence.epoch) return "RESEND";
  return undefined;
}

function decide(facts: CommandFacts, event: CommandEvent): Verdict {
  switch (event.kind) {
    case "newer":
      if (isWaiting(facts.state)) return moved(facts, "SUPERSEDED", {});
      if (!event.reduces) return moved(facts, facts.state, {});
      return cancelling(facts, "NEWER");
    case "ahead-ended":
    case "due":
      return moved(facts, "READY", {});
    case "cancel":
      if (facts.isRemoval) return { kind: "refused", why: "REMOVAL_NOT_CANCELLABLE" };
      return isWaiting(facts.state) ? moved(facts, "CANCELLED", {}, ["promote-next"]) : cancelling(facts, "REQUESTED");
    case "agent-gone":
      if (facts.isRemoval && !event.retired) return moved(facts, facts.state, {}); // C3: waits for retire
      return isWaiting(facts.state)
        ? moved(facts, "CANCELLED", {}, ["promote-next"])
        : moved(facts, "LOST", { boundEpoch: null }, ["hold", "promote-next"]);
    case "time-over":
      if (facts.reduces) return { kind: "refused", why: "NOT_POSSIBLE" }; // never a removal, stop or pause
      return moved(facts, facts.everReceived ? "FAILED" : "EXPIRED", {}, ["hold", "promote-next"]);
    case "claimed":
      return moved(facts, "ASSIGNED", { attempt: facts.attempt + 1, boundEpoch: event.epoch }); // E2
    case "received":
      return facts.state === "CANCELLING"
        ? moved(facts, "CANCELLING", { everReceived: true }, ["send-cancel"])
        : moved(facts, "RUNNING", { everReceived: true, sessionsWithoutReceipt: 0 });
    case "not-now":
      return facts.state === "CANCELLING" ? afterCancelling(facts) : ready(facts);
    case "rejected":
    case "failed":
      return facts.state === "CANCELLING" ? afterCancelling(facts) : afterFailure(facts, event.worthRetry);
    case "ended":
      // The agent ended it though nobody asked any more (the asking got lost with a session): a failure like others.
      return facts.state === "CANCELLING" ? afterCancelling(facts) : afterFailure(facts, true);
    case "no-receipt": {
      const count = facts.sessionsWithoutReceipt + 1;
      const patch = { sessionsWithoutReceipt: count };
      if (count < sessionsWithoutReceiptLimit) return moved(facts, "ASSIGNED", patch);
      return afterFailure({ ...facts, ...patch, sessionsWithoutReceipt: 0 }, facts.isRemoval);
    }
    case "succeeded":
      return moved(facts, "SUCCEEDED", { boundEpoch: null }, ["promote-next"]);
    case "run-timeout":
      return cancelling(facts, "RUN_TIMEOUT");
    case "cancel-unanswered":
      if (facts.isRemoval) return moved(facts, "CANCELLING", {}, ["close-session"]); // C3
      return moved(facts, "LOST", { boundEpoch: null }, ["hold", "promote-next"]);
    case "session-ended":
      return moved(facts, facts.state, { boundEpoch: null }); // E2: burns neither attempt nor retry
    case "back-with-it":
      return moved(
        facts,
        facts.state,
        { boundEpoch: event.epoch },
        facts.state === "CANCELLING" ? ["send-cancel"] : [],
      );
    case "back-whole-without-it":
      if (facts.state === "CANCELLING") return afterCancelling(facts); // proven absent
      if (facts.state === "ASSIGNED") return moved(facts, "ASSIGNED", { boundEpoch: event.epoch }, ["push-again"]);
      return withEffect(ready(facts), "defect");
    case "back-with-another-journal":
      return facts.state === "CANCELLING" ? afterCancelling(facts) : ready(facts);
    case "unbound-too-long":
      if (facts.isRemoval) return moved(facts, facts.state, {}); // C3: only by retire
      return moved(facts, "LOST", { boundEpoch: null }, ["hold", "promote-next"]);
    case "forked":
      // C3: of a removal the wish is always issued anew.
      if (event.reissued || facts.isRemoval) return moved(facts, "SUPERSEDED", { boundEpoch: null }, ["promote-next"]);
      return isWaiting(facts.state)
        ? moved(facts, "CANCELLED", {}, ["promote-next"])
        : moved(facts, "LOST", { boundEpoch: null }, ["promote-next"]);
    default:
      return event satisfies never;
  }
}

/** Back to the queue, unless a newer one waits there (C4). */
function ready(facts: CommandFacts): Verdict {
  const patch = { boundEpoch: null, cancelReason: null };
  return facts.newerWaits ? moved(facts, "SUPERSEDED", patch, ["promote-next"]) : moved(facts, "READY", patch);
}

/** A try has failed: another one, or the end. */
function afterFailure(facts: CommandFacts, worthRetry: boolean): Verdict {
  const failures = facts.failures + 1;
  const patch = { failures, boundEpoch: null, cancelReason: null };
  // C3: a removal returns until it succeeds or its agent is retired; superseded only by one that removes more.
  const again = facts.isRemoval || (worthRetry && failures <= facts.maxRetries && facts.timeLeft);
  if (again && !facts.newerWaits) return moved(facts, "RETRY_WAIT", patch);
  return moved(facts, "FAILED", patch, ["hold", "promote-next"]);
}

/** The agent said that a command that was to end has ended without success. */
function afterCancelling(facts: CommandFacts): Verdict {
  if (facts.cancelReason === "RUN_TIMEOUT") return afterFailure(facts, true);
  // C3: a removal that a newer one interrupted is superseded by what waits; without one it goes on.
  if (facts.isRemoval && !facts.newerWaits) return afterFailure(facts, true);
  return moved(facts, "CANCELLED", { boundEpoch: null }, ["hold", "promote-next"]);
}

function cancelling(facts: CommandFacts, reason: CancelReason): Verdict {
  // A request or a newer stop replaces a timeout as the reason: no retry follows. A timeout replaces nothing.
  const kept = facts.cancelReason !== null && (reason === "RUN_TIMEOUT" || facts.cancelReason !== "RUN_TIMEOUT");
  return moved(facts, "CANCELLING", { cancelReason: kept ? facts.cancelReason : reason }, ["send-cancel"]);
}

function moved(
  facts: CommandFacts,
  to: CommandState,
  patch: Partial<CommandFacts>,
  effects: readonly Effect[] = [],
): Verdict {
  return { kind: "moved", to, facts: { ...facts, ...patch, state: to }, effects };
}

function withEffect(verdict: Verdict, effect: Effect): Verdict {
  return verdict.kind === "moved" ? { ...verdict, effects: [...verdict.effects, effect] } : verdict;
}

export function isWaiting(state: CommandState): boolean {
  return state === "BLOCKED" || state === "READY" || state === "RETRY_WAIT";
}

export function isInFlight(state: CommandState): boolean {
  return state === "ASSIGNED" || state === "RUNNING" || state === "CANCELLING";
}

export function isTerminal(state: CommandState): boolean {
  return !isWaiting(state) && !isInFlight(state);
}
