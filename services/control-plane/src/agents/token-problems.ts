/** What a registration token and its cluster's policy say to whoever comes. */
import { ClusterPolicy_ClientCertificates } from "@bowline/contract/clusters";
import { type Problem, problem, type Reason } from "@bowline/kernel";
import type { LockedCluster } from "../clusters/index.ts";

/** Whether the cluster's policy asks its agents for a client certificate. */
export function requiresCertificate(cluster: LockedCluster): boolean {
  return cluster.policy.clientCertificates === ClusterPolicy_ClientCertificates.REQUIRED;
}

/** Why a token enrols nobody; undefined: it does. */
export function tokenProblem(state: keyof typeof whyNot | "ACTIVE", cluster: LockedCluster): Problem | undefined {
  if (state !== "ACTIVE") {
    const [reason, message] = whyNot[state];
    return problem(reason, message);
  }
  if (cluster.deleting) return problem("CLUSTER_DELETING", `The cluster ${cluster.name} is being deleted.`);
  return undefined;
}

const whyNot = {
  USED: ["REGISTRATION_TOKEN_USED", "The token has enrolled an agent already. Ask an operator for another."],
  EXPIRED: ["REGISTRATION_TOKEN_EXPIRED", "The token is too old. Ask an operator for another."],
  REVOKED: ["REGISTRATION_TOKEN_REVOKED", "An operator revoked the token. Ask for another."],
} as const satisfies Record<string, [Reason, string]>;
