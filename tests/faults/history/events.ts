/**
 * What a history consists of. Whoever sees something appends it: the callers what
 * they asked and were answered, triggers in the database each step of a command,
 * a watch what it was told, the hosts' ledgers what was done there, and the
 * scenario what it broke and how long it waited.
 */
import type { CommandState } from "@bowline/db";

export type Outcome = "ok" | "failed" | "unknown";

/** One try of a call; tries with the same key are one call. */
export interface Answered {
  kind: "answered";
  what: "publish" | "unpublish" | "cancel";
  key: string;
  askedAt: number;
  outcome: Outcome;
  /** Of a refusal, or of the connection's end. */
  reason: string;
  /** What was accepted: commands as the answer named them. */
  commands: readonly { command: string; deployment: string; generation: number }[];
  /** Of a publish: what is to be served. */
  version: string;
  /** Of a cancel: within this the command is to end. */
  boundMs: number;
}

/** One update of one command's row, written by a trigger in the transaction that did it. */
export interface Step {
  kind: "step";
  /** Orders the steps of one deployment. */
  number: number;
  transaction: string;
  command: string;
  deployment: string;
  agent: string;
  generation: number;
  from: CommandState | "";
  to: CommandState;
  attemptBefore: number;
  attempt: number;
  epochBefore: number | null;
  epoch: number | null;
  /** The agent's session at that moment. */
  sessionEpoch: number | null;
  sessionState: string;
  outcomeAttempt: number | null;
  outcomeAttemptBefore: number | null;
  reason: string;
}

/** A command as it stood at the end. */
export interface Ended {
  kind: "command";
  command: string;
  deployment: string;
  agent: string;
  generation: number;
  state: CommandState;
  attempt: number;
  reason: string;
  removal: boolean;
  /** What made it: a person, a repair, a journal that was lost. */
  createdBy: string;
}

/** A generation of a deployment, as it is stored. */
export interface Spec {
  kind: "spec";
  deployment: string;
  generation: number;
  content: string;
  /** Versions that its routes serve. */
  versions: readonly string[];
}

/** A stored generation was changed. */
export interface Rewritten {
  kind: "rewritten";
  deployment: string;
  generation: number;
}

export interface Watched {
  kind: "watched";
  command: string;
  state: CommandState;
  attempt: number;
}

/** A line of a host's ledger. */
export interface Effect {
  kind: "effect";
  host: string;
  agent: string;
  pid: number;
  what: "begun" | "applied" | "adopted" | "removed" | "ended";
  deployment: string;
  generation: number;
  content: string;
}

/** An agent said something whose fence had passed; `mark` is the reason that it gave, and nobody else gives. */
export interface Stale {
  kind: "stale";
  command: string;
  attempt: number;
  mark: string;
}

export interface Fault {
  kind: "fault";
  name: string;
  phase: "begins" | "ends";
}

/** What had to be so again within a time. Null: it was not. */
export interface Waited {
  kind: "waited";
  what: string;
  boundMs: number;
  tookMs: number | null;
}

export type InvariantName = "A" | "B" | "C" | "D" | "E" | "F" | "G" | "H" | "I";

/** What the documentation says may happen here, of one command or deployment. */
export interface Forgiven {
  kind: "forgiven";
  invariant: InvariantName;
  subject: string;
  why: string;
}

export type Event = Answered | Step | Ended | Spec | Rewritten | Watched | Effect | Stale | Fault | Waited | Forgiven;

/** `at`: ms since 1970 of the one machine that all of it runs on. */
export type Entry = Event & { at: number };
