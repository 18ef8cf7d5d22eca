/** The rows of the engine's tables, as far as it decides by them. */
import type { CommandState } from "@bowline/db";
import type { CommandFacts } from "../../services/control-plane/src/commands/index.ts";

type CancelReason = CommandFacts["cancelReason"];
export type Desired = "RUNNING" | "STOPPED" | "PAUSED" | "ABSENT";

export interface AgentRow {
  id: string;
  state: "ENROLLED" | "AWAITING_DECISION" | "CONFLICT" | "REVOKED" | "RETIRED";
  runtimeIdentity: string;
  journalId: string;
  journalCounter: number;
}

export interface SessionRow {
  /** The agent's. */
  id: string;
  sessionId: string;
  epoch: number;
  assertionCounter: number;
  replicaId: string;
  processId: string;
  state: "SYNCING" | "SERVING" | "ENDED";
  endReason: string;
  openedAt: number;
  endedAt: number | null;
}

export interface DeploymentRow {
  id: string;
  agentId: string;
  desired: Desired;
  generation: number;
  observedGeneration: number;
  isAbsent: boolean;
  heldReason: string;
}

/** Of a deployment at a generation; `id` names both. */
export interface GenerationRow {
  id: string;
  spec: Uint8Array;
  digest: string;
}

export interface Limits {
  maxRetries: number;
  runTimeoutMs: number;
  graceMs: number;
  cancelLimitMs: number;
  offlineLifeMs: number;
  deadlineMs: number | undefined;
}

/** `commands` and `command_states` in one. Times are of the database's clock. */
export interface CommandRow {
  id: string;
  deploymentId: string;
  agentId: string;
  generation: number;
  digest: string;
  isRemoval: boolean;
  reduces: boolean;
  priority: number;
  sequence: number;
  limits: Limits;
  deadlineAt: number | null;
  state: CommandState;
  attempt: number;
  failures: number;
  boundEpoch: number | null;
  everReceived: boolean;
  sessionsWithoutReceipt: number;
  cancelReason: CancelReason;
  outcomeAttempt: number | null;
  lateOutcome: string;
  supersededBy: string;
  reason: string;
  updatedAt: number;
  dueAt: number | null;
  assignedAt: number | null;
  receivedAt: number | null;
  cancellingAt: number | null;
  unboundAt: number | null;
  endedAt: number | null;
}

export interface ReplicaRow {
  id: string;
  leaseUntil: number;
}

/** One row: `id` is `installation`. */
export interface InstallationRow {
  id: string;
  incarnation: number;
  dispatchHeld: boolean;
}

/** A process that another one displaced; `id` is `agent process`. */
export interface DisplacedRow {
  id: string;
  at: number;
}

/** What an agent has of another history; `id` is `agent deployment`. */
export interface DisputeRow {
  id: string;
  agentId: string;
  deploymentId: string;
  generation: number;
  digest: string;
  settled: boolean;
}

/** A client's key, and what its call was answered. */
export interface KeyRow {
  id: string;
  commandId: string;
}

/** Only locked. */
export interface ClusterRow {
  id: string;
}

export interface Rows {
  clusters: ClusterRow;
  agents: AgentRow;
  sessions: SessionRow;
  deployments: DeploymentRow;
  generations: GenerationRow;
  commands: CommandRow;
  replicas: ReplicaRow;
  installation: InstallationRow;
  displaced: DisplacedRow;
  disputes: DisputeRow;
  keys: KeyRow;
}

export type Table = keyof Rows;
export type Tables = { [T in Table]: Map<string, Rows[T]> };

export function emptyTables(): Tables {
  return {
    clusters: new Map(),
    agents: new Map(),
    sessions: new Map(),
    deployments: new Map(),
    generations: new Map(),
    commands: new Map(),
    replicas: new Map(),
    installation: new Map([["installation", { id: "installation", incarnation: 1, dispatchHeld: false }]]),
    displaced: new Map(),
    disputes: new Map(),
    keys: new Map(),
  };
}

/** Rows are never changed, only replaced, so a copy of the maps is a snapshot. */
export function snapshotOf(tables: Tables): Tables {
  return Object.fromEntries(
    Object.entries(tables).map(([name, rows]) => [name, new Map(rows as Map<string, unknown>)]),
  ) as Tables;
}
