/** What the engine needs from others, and what it tells those who own deployments. */
import type { CommandState } from "@bowline/db";
import type { Traces } from "@bowline/traces";
import type { Principal } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import type { Metrics } from "../platform/metrics.ts";
import type { Db, Work } from "../platform/transactions.ts";
import type { CancelReason } from "./transitions.ts";

/** A command as the engine works with it. */
export interface LockedCommand {
  id: string;
  deploymentId: string;
  agentId: string;
  clusterId: string;
  organisationId: string;
  generation: number;
  productPublishId: string;
  ownerKind: string;
  ownerId: string;
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
  newerWaits: boolean;
  timeLeft: boolean;
  outcomeAttempt: number | null;
  /** W3C traceparent of its enqueue; empty: it is not traced. */
  traceParent: string;
}

/** A command right after a change, with what its owner's slice may show. */
export interface ChangedCommand extends LockedCommand {
  from: CommandState;
  /** Stable reason, or empty. */
  reason: string;
  message: string;
}

/**
 * A slice that owns deployments. Handlers do no I/O beside the transaction, and
 * cover every state; a handler that throws rolls the change back.
 */
export interface Owner {
  changed(work: Work, commands: readonly ChangedCommand[]): Promise<void>;
  /**
   * One of its deployments is converged anew, by a retry or a reconcile: this command carries its wish now.
   * `fromNothing`: the agent has another host, where nothing of it runs yet.
   */
  renewed?(
    work: Work,
    command: { deploymentId: string; commandId: string; generation: number; ownerId: string; fromNothing: boolean },
  ): Promise<void>;
  /** What lapsed because its agent stayed away is wished again when the agent is back (afresh.ts, A4). */
  followsReturns?: boolean;
  /** The progress of some of its commands was written. */
  progressed?(work: Work, commandIds: readonly string[]): Promise<void>;
  /** An agent is gone for good, with all that was there: its commands have ended, its deployments are absent. */
  retired?(work: Work, agentId: string): Promise<void>;
  /** Its resources that have this id or name, also those that are gone, as far as the principal may know: their ids. */
  called?(db: Db, principal: Principal, idOrName: string): Promise<readonly string[]>;
  /** Names of its resources, by id. */
  names?(db: Db, ids: readonly string[]): Promise<ReadonlyMap<string, string>>;
  /** Observed state of its deployments was written. */
  observed?(work: Work, deploymentIds: readonly string[]): Promise<void>;
}

/** Hints to whoever holds agents' sessions; given after the commit, may get lost. */
export interface AgentSignals {
  wake(agentIds: readonly string[]): void;
  cancel(agentId: string, commandId: string, attempt: number): void;
  pushAgain(agentId: string, commandId: string): void;
  /** `replicaId`: that one's session, which is no longer the agent's; else the one that the session's row names. */
  close(agentId: string, reason: string, replicaId?: string): void;
}

/** A session that has room. */
export interface Claimant {
  agentId: string;
  epoch: number;
  /** Commands that it takes in all, in flight included; one more for removals and stops. */
  window: number;
  /** It takes only removals and stops, until it has room for others. */
  onlyReducing?: boolean;
}

/** A command as it is pushed: IDs only. */
export interface PushedCommand {
  commandId: string;
  agentId: string;
  epoch: number;
  deploymentId: string;
  generation: number;
  digest: string;
  attempt: number;
  productPublishId: string;
  runTimeoutMs: number;
  reduces: boolean;
  /** W3C traceparent of its enqueue; empty: it is not traced. */
  traceParent: string;
  /** From its enqueue to this claim; undefined where it was claimed before. */
  waitedSeconds?: number | null;
}

/** The sessions that this replica serves, for claims in the transaction of an enqueue. */
export interface Here {
  /** Runs `claim` for those of the agents that have a session here with room; claims nothing where there is none. */
  claim(
    agentIds: readonly string[],
    claim: (claimants: readonly Claimant[]) => Promise<PushedCommand[]>,
  ): Promise<PushedCommand[]>;
  /** Pushes what was claimed so. After the commit. */
  push(claimed: readonly PushedCommand[]): void;
}

export interface EnginePorts {
  db: Db;
  events: Events;
  /** By `owner_kind`. Filled while the server is wired. */
  owners: Map<string, Owner>;
  signals: AgentSignals;
  /** Undefined: nothing is claimed before a wake-up. */
  here?: Here;
  /** An agent came, went or was changed; slices that show agents in their rows note it. */
  agentChanged?(work: Work, agentId: string): Promise<void>;
  /** An agent spoke about a command of another one; what it said changed nothing. */
  foreignCommand?(agentId: string, commandId: string): void;
  random: () => number;
  /** Undefined: nothing is traced. */
  traces?: Traces;
  /** Undefined: nobody measures (tests of slices). */
  metrics?: Metrics;
  log: { error(fields: object, message: string): void; warn(fields: object, message: string): void };
}
