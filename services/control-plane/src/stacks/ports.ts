/** What stacks need of others. */
import type { ClusterPolicy } from "@bowline/contract/clusters";
import type { EnginePorts } from "../commands/index.ts";
import type { Principal } from "../platform/context.ts";
import type { Db, Tx } from "../platform/transactions.ts";

export interface StackCluster {
  id: string;
  name: string;
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
  /** Gives the organisation's secret of this name this value: makes it, or its next version where it has another. */
  keepSecret(tx: Tx, organisationId: string, name: string, value: Uint8Array): Promise<void>;
  /** A cluster's policy, as far as the principal may know of the cluster. Throws NOT_FOUND. */
  clusterPolicy(db: Db, principal: Principal, idOrName: string): Promise<ClusterPolicy>;
  /** Something of stacks is to be looked at: a step is due, or an agent came. */
  ring(): void;
}
