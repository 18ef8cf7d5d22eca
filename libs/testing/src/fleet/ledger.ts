/**
 * What became of every command, over all agents: each is to have one recorded
 * result, and each attempt one effect.
 */
import { DeployResult_Outcome as Outcome, ResultAck_Disposition as Ack } from "@bowline/contract/agent";

export interface LedgerTotals {
  /** Commands that began to be carried out, each once. */
  commands: number;
  attempts: number;
  succeeded: number;
  failed: number;
  cancelled: number;
  /** Results that the server said it has recorded. */
  recorded: number;
  /** Results of which it said that it had recorded them before: an acknowledgement was lost. */
  repeated: number;
  /** Results of attempts that a later one, or an end without them, has replaced. */
  obsolete: number;
  /** Attempts whose result the server has not answered yet. */
  unanswered: number;
}

export interface Ledger {
  effect: (commandId: string, attempt: number) => void;
  carried: (outcome: Outcome) => void;
  answered: (commandId: string, attempt: number, disposition: Ack) => void;
  totals(): LedgerTotals;
  /** What must not be, in words; the first `maxViolations` of them. */
  readonly violations: readonly string[];
  /** Commands, and whether the server has recorded a result of their last attempt. */
  accounts(): ReadonlyMap<string, Readonly<Account>>;
}

/** Of one command, its last attempt. */
export interface Account {
  attempt: number;
  effects: number;
  recorded: number;
  answered: boolean;
}

/** Whoever looks at them looks at the first ones. */
const maxViolations = 100;

export function createLedger(): Ledger {
  const accounts = new Map<string, Account>();
  const violations: string[] = [];
  const counts = {
    ...{ attempts: 0, succeeded: 0, failed: 0, cancelled: 0 },
    ...{ recorded: 0, repeated: 0, obsolete: 0, unanswered: 0 },
  };
  const violated = (what: string): void => {
    if (violations.length < maxViolations) violations.push(what);
  };
  return {
    effect(commandId, attempt) {
      counts.attempts += 1;
      const account = accounts.get(commandId);
      if (account !== undefined && attempt <= account.attempt) {
        account.effects += 1;
        violated(`${commandId} attempt ${attempt} was carried out again`);
        return;
      }
      if (account?.answered !== false) counts.unanswered += 1;
      accounts.set(commandId, { attempt, effects: 1, recorded: 0, answered: false });
    },
    carried(outcome) {
      if (outcome === Outcome.SUCCEEDED) counts.succeeded += 1;
      else if (outcome === Outcome.FAILED) counts.failed += 1;
      else counts.cancelled += 1;
    },
    answered(commandId, attempt, disposition) {
      if (disposition === Ack.RECORDED) counts.recorded += 1;
      else if (disposition === Ack.ALREADY_RECORDED) counts.repeated += 1;
      else if (disposition === Ack.OBSOLETE) counts.obsolete += 1;
      else return; // it is said again
      const account = accounts.get(commandId);
      if (account === undefined) return violated(`${commandId} was recorded and never carried out`);
      if (account.attempt !== attempt) {
        if (disposition === Ack.RECORDED) violated(`${commandId} attempt ${attempt} was recorded after a later one`);
        return;
      }
      if (!account.answered) counts.unanswered -= 1;
      account.answered = true;
      if (disposition !== Ack.RECORDED) return;
      account.recorded += 1;
      if (account.recorded > 1) violated(`${commandId} attempt ${attempt} was recorded ${account.recorded} times`);
    },
    totals: () => ({ commands: accounts.size, ...counts }),
    violations,
    accounts: () => accounts,
  };
}
