/**
 * The life of an agent as data, its rows as the API shows them, and what the
 * slice needs of others.
 */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Agent, Agent_Connectivity, Agent_State, Agent_Transport, AgentSchema } from "@bowline/contract/agents";
import type { AgentsTable } from "@bowline/db";
import { type Problem, problem } from "@bowline/kernel";
import type { Selectable } from "kysely";
import { etagOf } from "../platform/etags.ts";
import type { Events } from "../platform/events.ts";
import type { Db, Work } from "../platform/transactions.ts";
import type { Tunnel } from "../tunnels/index.ts";

/** An agent that has just enrolled. */
export interface EnrolledAgent {
  id: string;
  name: string;
  clusterId: string;
}

/** Who is connected, and when it was last heard. A hint: the sessions' rows decide who has one. */
export interface Presence {
  /** By the streams; undefined where nothing is known. */
  lastHeard(agentId: string): Date | undefined;
  /** True where presence should know of the agent and doesn't, so that the answer comes from the database alone. */
  degraded?(agentId: string): boolean;
  /** The same with what other replicas know of these, asked once for all. */
  of?(
    agents: readonly { id: string; epoch: number; replicaId: string; openForMs: number }[],
  ): Promise<Omit<Presence, "of">>;
}

/** Presence for an answer about these agents. */
export async function presenceOf(presence: Presence, rows: readonly AgentRow[]): Promise<Presence> {
  if (presence.of === undefined) return presence;
  return presence.of(
    rows
      .filter((row) => row.session_state !== null && row.session_state !== "ENDED")
      .map((row) => ({
        id: row.id,
        epoch: row.epoch ?? 0,
        replicaId: row.replica_id ?? "",
        openForMs: row.now.getTime() - (row.opened_at ?? row.now).getTime(),
      })),
  );
}

export interface AgentPorts {
  db: Db;
  events: Events;
  /** What agents are told to dial; the audience of their proofs. */
  publicUrl: () => string;
  presence: Presence;
  /** The session with this epoch has ended: nothing is bound to it any more. */
  sessionEnded(work: Work, agentId: string, epoch: number): Promise<void>;
  /** The agent never comes back: its open commands end. */
  agentGone(work: Work, agentId: string, how: { retired: boolean }): Promise<unknown>;
  /** Its host is gone for good: its open commands end and its deployments are absent. Returns how many of each. */
  agentRetired(work: Work, agentId: string): Promise<{ commands: number; deployments: number }>;
  /**
   * The agent begins anew on another host: what was bound to the session with this epoch is bound no more, and all that
   * it has to run is converged again. Returns how many deployments.
   */
  agentAfresh(work: Work, agent: { id: string; epoch: number | undefined; createdBy: string }): Promise<number>;
  /** Ends the agent's stream, wherever it is. After the commit; may get lost. */
  closeSession(agentId: string, reason: "REVOKED" | "RETIRED" | "REKEYED" | "DECIDED"): void;
  /** Settles deployments of which the agent has another history, as an operator decided. */
  settleForks(
    work: Work,
    forks: readonly { deploymentId: string; agentGeneration: number; agentDigest: string }[],
    how: { side: "AGENT" | "SERVER"; createdBy: string },
  ): Promise<void>;
  /** A new agent: whoever places things gives it what belongs to it. */
  agentEnrolled(work: Work, agent: EnrolledAgent): Promise<void>;
  /** Opens a tunnel to an agent; the caller closes it. Throws AGENT_OFFLINE, TUNNEL_LIMIT, TUNNEL_TIMEOUT. */
  openTunnel(
    wish: { agentId: string; agent: string; purpose: string; principalId: string },
    signal: AbortSignal,
  ): Promise<Tunnel>;
  /** Labels, capacity, cordon or life changed: other things may belong to it now. */
  agentChanged?(work: Work, agentId: string): Promise<void>;
}

/** The life of an agent. `gone`: it never comes back, its name and key are free for others. */
export const agentStates = {
  ENROLLED: { gone: false },
  CONFLICT: { gone: false },
  AWAITING_DECISION: { gone: false },
  REVOKED: { gone: true },
  RETIRED: { gone: true },
} as const satisfies Record<string, { gone: boolean }>;

export type AgentState = keyof typeof agentStates;

/** Why nothing can be done any more with an agent whose life has ended; undefined where it has not. */
export function goneProblem(row: Pick<AgentRow, "name" | "state">): Problem | undefined {
  if (row.state !== "REVOKED" && row.state !== "RETIRED") return undefined;
  return problem(
    row.state === "REVOKED" ? "AGENT_REVOKED" : "AGENT_RETIRED",
    `The agent ${row.name} is ${row.state}, for good: enrol a new one with an ordinary registration token.`,
  );
}

/** States that end an agent's life. */
export const goneStates = (Object.keys(agentStates) as AgentState[]).filter((state) => agentStates[state].gone);

/** After this much silence an agent shows as late (protocol.md, Liveness). */
export const lateAfterMs = 30_000;

/** An agent with its cluster's name, its newest session and when it was seen. */
export type AgentRow = Selectable<AgentsTable> & {
  cluster: string;
  session_state: string | null;
  epoch: number | null;
  replica_id: string | null;
  remote_address: string | null;
  opened_at: Date | null;
  ended_at: Date | null;
  end_reason: string | null;
  transport: string | null;
  last_seen_at: Date | null;
  running: number | null;
  load_millis: number | null;
  /** The database's clock. */
  now: Date;
};

/** What operators set over what the agent reports. */
export function labelsOf(row: Pick<AgentRow, "labels" | "reported_labels">): Record<string, string> {
  return { ...row.reported_labels, ...row.labels };
}

/** An agent as the API shows it. Without presence nothing is said about connectivity: for the audit trail. */
export function agentOf(row: AgentRow, presence?: Presence): Agent {
  return create(AgentSchema, {
    id: row.id,
    name: row.name,
    clusterId: row.cluster_id,
    cluster: row.cluster,
    hostname: row.hostname,
    labels: labelsOf(row),
    capacityLimit: row.capacity_limit,
    state: Agent_State[row.state as AgentState],
    cordoned: row.cordoned,
    runtime: row.runtime,
    runtimeVersion: row.runtime_version,
    runtimeProblem: row.runtime_problem,
    capabilities: row.capabilities,
    version: row.agent_version,
    createdAt: timestampFromDate(row.created_at),
    keyThumbprint: row.signing_thumbprint,
    conflict: row.conflict,
    conflictRuntimeIdentity: row.conflict_runtime_identity,
    decision: row.decision,
    clientCertificate: row.client_certificate,
    etag: etagOf(row.version),
    ...(presence === undefined ? {} : observed(row, presence)),
  });
}

function observed(row: AgentRow, presence: Presence) {
  const connectivity = connectivityOf(row, presence.lastHeard(row.id));
  return {
    connectivity: Agent_Connectivity[connectivity.is],
    offlineReason: connectivity.reason,
    connectivitySince: timestampFromDate(connectivity.since),
    lastSeenAt: connectivity.lastSeenAt === undefined ? undefined : timestampFromDate(connectivity.lastSeenAt),
    running: row.running ?? 0,
    loadMillis: row.load_millis ?? 0,
    epoch: row.epoch ?? 0,
    replicaId: connectivity.is === "OFFLINE" ? "" : (row.replica_id ?? ""),
    remoteAddress: row.remote_address ?? "",
    transport: connectivity.is === "OFFLINE" ? Agent_Transport.TRANSPORT_UNSPECIFIED : transportOf(row),
    degraded: presence.degraded?.(row.id) ?? false,
  };
}

function transportOf(row: AgentRow): Agent_Transport {
  return row.transport === "POLL" ? Agent_Transport.POLL : Agent_Transport.STREAM;
}

interface Connectivity {
  is: "ONLINE" | "LATE" | "OFFLINE";
  reason: string;
  since: Date;
  lastSeenAt: Date | undefined;
}

/** The session's row says whether there is one; the newest sign of life says whether it is late. */
export function connectivityOf(row: AgentRow, heard: Date | undefined): Connectivity {
  const lastSeenAt = newest(row.last_seen_at ?? undefined, heard);
  if (row.session_state === null || row.opened_at === null) {
    const reason = row.state === "REVOKED" || row.state === "RETIRED" ? row.state : "NEVER_CONNECTED";
    return { is: "OFFLINE", reason, since: row.created_at, lastSeenAt };
  }
  if (row.session_state === "ENDED") {
    return { is: "OFFLINE", reason: row.end_reason ?? "", since: row.ended_at ?? row.opened_at, lastSeenAt };
  }
  const seenAt = newest(lastSeenAt, row.opened_at) ?? row.opened_at;
  const lateAt = new Date(seenAt.getTime() + lateAfterMs);
  if (row.now > lateAt) return { is: "LATE", reason: "", since: lateAt, lastSeenAt: seenAt };
  return { is: "ONLINE", reason: "", since: row.opened_at, lastSeenAt: seenAt };
}

function newest(a: Date | undefined, b: Date | undefined): Date | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  return a > b ? a : b;
}
