/** What stacks need of others. */
import type { ClusterPolicy } from "@bowline/contract/clusters";
import type { EnginePorts } from "../commands/index.ts";
import type { Principal } from "../platform/context.ts";
import type { Db, Tx } from "../platform/transactions.ts";

export interface StackCluster {
  id: string;
  name: string;
  runtime: string;
  /** A restriction of what agents report; empty: all of it. */
  capabilities: readonly string[];
  policy: ClusterPolicy;
  isActive: boolean;
  deleting: boolean;
}

export interface StackPorts {
  engine: () => EnginePorts;
  /** Locks the cluster for new work. Throws NOT_FOUND, CLUSTER_NOT_GRANTED, CLUSTER_INACTIVE, CLUSTER_DELETING. */
  lockCluster(tx: Tx, idOrName: string, principal: Principal, organisationId?: string): Promise<StackCluster>;
  /** Locks a cluster for a change of what is in it; undefined where there is none. */
  lockClusterForChange(tx: Tx, clusterId: string): Promise<StackCluster | undefined>;
  /** The newest version of each secret, by name. Throws SECRET_UNKNOWN. */
  secretVersions(tx: Tx, organisationId: string, names: readonly string[]): Promise<Record<string, string>>;
  /** The same of secrets that came with a stack. Throws SECRET_UNKNOWN. */
  givenVersions(tx: Tx, stackId: string, names: readonly string[]): Promise<Record<string, string>>;
  /** What `givenVersions` would say after `keepSecret` of these values; of a new one a text that is no version's. */
  plannedVersions(tx: Tx, stackId: string, values: ReadonlyMap<string, Uint8Array>): Promise<Record<string, string>>;
  /** Gives the stack's own secret of this name this value: makes it, or its next version where it has another. */
  keepSecret(tx: Tx, stack: { id: string; organisation_id: string }, name: string, value: Uint8Array): Promise<void>;
  /** Removes what came with stacks that are gone. */
  dropSecrets(tx: Tx, stackIds: readonly string[]): Promise<void>;
  /** HMAC with a key outside the database. */
  keyedHash(text: string): Uint8Array;
  /** A cluster's policy, as far as the principal may know of the cluster. Throws NOT_FOUND. */
  clusterPolicy(db: Db, principal: Principal, idOrName: string): Promise<ClusterPolicy>;
  /** Something of stacks is to be looked at: a step is due, or an agent came. */
  ring(): void;
}
