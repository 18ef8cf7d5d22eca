/** Clusters and registration tokens as the API shows them, and what the slice needs of others. */
import { create, fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  type Cluster,
  Cluster_State,
  type ClusterPolicy,
  ClusterPolicySchema,
  ClusterSchema,
  type RegistrationToken,
  RegistrationToken_State,
  RegistrationTokenSchema,
} from "@bowline/contract/clusters";
import type { ClustersTable, RegistrationTokensTable } from "@bowline/db";
import type { Selectable } from "kysely";
import { type Principal, seesAll } from "../platform/context.ts";
import { etagOf } from "../platform/etags.ts";
import type { Events } from "../platform/events.ts";
import type { Db, Tx, Work } from "../platform/transactions.ts";

/** Agents of one cluster that are enrolled and not gone for good. */
export interface AgentCounts {
  total: number;
  /** Heard within the heartbeat interval. */
  online: number;
  /** Without a session. */
  offline: number;
  /** Online, but in conflict, awaiting a decision or with a problem of the runtime. */
  unhealthy: number;
}

/** A slice that keeps something in clusters: agents, publishes. */
export interface Resident {
  /** Agents or deployments of the cluster that are not gone. */
  remaining(tx: Tx, clusterId: string): Promise<number>;
  /** Asks all of it to go. Repeated until nothing remains; asking twice is no error. */
  removeAll(clusterId: string): Promise<void>;
  /** Deletes what history still refers to the cluster. Called with nothing remaining. */
  forget(work: Work, clusterId: string): Promise<void>;
}

export interface ClusterPorts {
  db: Db;
  events: Events;
  /** Where agents dial; known once the server listens. */
  publicUrl: () => string;
  /** Tag of the agent's image that the server names. */
  serverVersion: string;
  /** Of the CA that agents may pin; undefined: a public one, or none that the server knows. */
  caFingerprint?: () => string | undefined;
  /** Agents per cluster; a cluster without agents may be missing. */
  countAgents(clusterIds: readonly string[]): Promise<ReadonlyMap<string, AgentCounts>>;
  /** The agent that a token may give new keys. Throws NOT_FOUND, AMBIGUOUS_NAME, AGENT_REVOKED, AGENT_RETIRED. */
  rekeyable(principal: Principal, idOrName: string): Promise<{ id: string; name: string; clusterId: string }>;
  /** In the order in which they are asked to go. Filled while the server is wired. */
  residents: Resident[];
  log: { error(fields: object, message: string): void };
}

export type ClusterRow = Selectable<ClustersTable> & { grants: string[] };

export const nobody: AgentCounts = { total: 0, online: 0, offline: 0, unhealthy: 0 };

/**
 * A cluster as this principal sees it: without other organisations' grants
 * unless it sees all. Without counts nothing is said about its agents.
 */
export function clusterOf(row: ClusterRow, counts?: AgentCounts, principal?: Principal): Cluster {
  const grants =
    principal === undefined || seesAll(principal)
      ? row.grants
      : row.grants.filter((id) => id === "*" || id === principal.organisationId);
  return create(ClusterSchema, {
    id: row.id,
    name: row.name,
    displayName: row.display_name,
    runtime: row.runtime,
    region: row.region,
    cloudProvider: row.cloud_provider,
    labels: row.labels,
    capabilities: row.capabilities,
    isDefault: row.is_default,
    isActive: row.is_active,
    policy: policyOf(row.policy),
    state: stateOf(row, counts),
    agentsOnline: counts?.online ?? 0,
    agentsTotal: counts?.total ?? 0,
    grantedOrganisationIds: grants,
    etag: etagOf(row.version),
    createdAt: timestampFromDate(row.created_at),
    updatedAt: timestampFromDate(row.updated_at),
  });
}

function stateOf(row: ClusterRow, counts: AgentCounts | undefined): Cluster_State {
  if (row.deleting) return Cluster_State.DELETING;
  if (counts === undefined) return Cluster_State.STATE_UNSPECIFIED;
  if (counts.total === 0) return Cluster_State.NO_AGENT;
  if (counts.offline === counts.total) return Cluster_State.OFFLINE;
  return counts.online === counts.total && counts.unhealthy === 0 ? Cluster_State.ONLINE : Cluster_State.DEGRADED;
}

/** The stored policy. What a newer server wrote and this one doesn't know is left out. */
export function policyOf(stored: unknown): ClusterPolicy {
  return fromJson(ClusterPolicySchema, stored as JsonValue, { ignoreUnknownFields: true });
}

export function policyJson(policy: ClusterPolicy | undefined): string {
  return JSON.stringify(toJson(ClusterPolicySchema, policy ?? create(ClusterPolicySchema)));
}

/** A token without its hash, with the agents that it enrolled, and where it stands by the database's clock. */
export type TokenRow = Omit<Selectable<RegistrationTokensTable>, "secret_hash"> & {
  expired: boolean;
  agent_ids: string[];
};

/** Why a token does not enrol, or that it does. The first that holds of: revoked, used, expired. */
export function tokenState(row: {
  revoked_at: Date | null;
  uses: number;
  max_uses: number;
  expired: boolean;
}): "ACTIVE" | "USED" | "EXPIRED" | "REVOKED" {
  if (row.revoked_at !== null) return "REVOKED";
  if (row.uses >= row.max_uses) return "USED";
  return row.expired ? "EXPIRED" : "ACTIVE";
}

export function tokenOf(row: TokenRow): RegistrationToken {
  return create(RegistrationTokenSchema, {
    id: row.id,
    clusterId: row.cluster_id,
    state: RegistrationToken_State[tokenState(row)],
    maxUses: row.max_uses,
    uses: row.uses,
    expiresAt: timestampFromDate(row.expires_at),
    createdAt: timestampFromDate(row.created_at),
    createdBy: row.created_by,
    agentIds: row.agent_ids,
    rekeyAgentId: row.rekey_agent_id ?? "",
  });
}
