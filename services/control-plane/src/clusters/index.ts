/**
 * Clusters: the places where things run, who may publish to them, and the
 * registration tokens by which agents join them.
 *
 *   model.ts     rows as the API shows them, derived states, ports
 *   queries.ts   clusters and grants in SQL        rpc.ts          ClusterService
 *   tokens.ts    registration tokens in SQL        token-rpc.ts    RegistrationTokenService
 *   deletion.ts  leaving, with all that is inside  admission.ts    what publishing and enrolment lock
 */
import type { ConnectRouter } from "@connectrpc/connect";
import { runDeletions } from "./deletion.ts";
import type { ClusterPorts } from "./model.ts";
import { registerClusters } from "./rpc.ts";
import { registerTokens } from "./token-rpc.ts";

export {
  findRegistrationToken,
  lockClusterForChange,
  lockClusterForLeaving,
  lockClusterForPublish,
  lockForEnrolment,
  type LockedCluster,
  recordTokenUse,
  spendToken,
  tokenUseOf,
} from "./admission.ts";
export type { AgentCounts, ClusterPorts, Resident } from "./model.ts";
export { clusterPolicy, findClusterId, visibleClusterIds } from "./queries.ts";

export interface Clusters {
  readonly register: (router: ConnectRouter) => void;
  /** Asks what is in DELETING clusters to go, and deletes those that are empty, at an interval until `signal` aborts. On any replica. */
  readonly run: (signal: AbortSignal) => Promise<void>;
}

export function createClusters(ports: ClusterPorts): Clusters {
  return {
    register(router) {
      registerClusters(router, ports);
      registerTokens(router, ports);
    },
    run: (signal) => runDeletions(ports, signal),
  };
}
