/**
 * Agents: how they enrol, how operators see and change them, how they leave.
 *
 *   model.ts     ports, the life of an agent as data, rows as the API shows them
 *   queries.ts   agents in SQL               rpc.ts      AgentsService
 *   enrol.ts, proof.ts, enrolments.ts, token-problems.ts  AgentService.Enroll
 *   names.ts    names that are unique in a cluster
 *   leave.ts     revoke, retire, delete        history.ts  what still refers to one that is deleted
 *   release.ts   the way out of a conflict     accept.ts   the way out of a dispute after a restore
 *   settle.ts    what both share               keys.ts     an agent's keys, and those before
 *   rekey.ts     a token gives an agent new keys  rotate.ts  an agent replaces its own
 *   examine.ts   what an enrolment or a dial would be answered
 *   foreign.ts   containers of others on its host, asked through a tunnel
 *   residence.ts what a cluster asks of its agents   certificates.ts  client certificates
 */
import type { ConnectRouter } from "@connectrpc/connect";
import type { EnrollRequest, EnrollResponse, RotateKeyRequest } from "@bowline/contract/agent";
import type { AgentCounts, Resident } from "../clusters/index.ts";
import { type CalledBy, type Principal, type RequestFacts, requestKey } from "../platform/context.ts";
import { createEnrol } from "./enrol.ts";
import { examineAgent, examineToken } from "./examine.ts";
import type { AgentPorts } from "./model.ts";
import { rekeyable } from "./rekey.ts";
import { countByCluster, residence } from "./residence.ts";
import { rotateKey, type SessionClaims } from "./rotate.ts";
import { registerAgents } from "./rpc.ts";

export { bindCertificate, certificateProblemBy, certificateProblemsOf, type Presented } from "./certificates.ts";
export type { Examined } from "./examine.ts";
export type { AgentPorts, AgentState, EnrolledAgent, Presence } from "./model.ts";

export interface Agents {
  readonly register: (router: ConnectRouter) => void;
  /** AgentService.Enroll; sessions registers it, because that service is theirs. */
  readonly enrol: (request: EnrollRequest, context: CalledBy) => Promise<EnrollResponse>;
  /** AgentService.RotateKey, for whoever has this access token; resolves with the thumbprint of its key. */
  readonly rotateKey: (
    claims: SessionClaims,
    installationId: string,
    request: RotateKeyRequest,
    context: Pick<CalledBy, "values">,
  ) => Promise<string>;
  /** AgentService.Examine, with a registration token. */
  readonly examineToken: (token: string, request: RequestFacts) => ReturnType<typeof examineToken>;
  /** The same for an agent whose assertion was verified. */
  readonly examineAgent: (agentId: string, request: RequestFacts) => ReturnType<typeof examineAgent>;
  /** The agent that a registration token may give new keys. Throws NOT_FOUND, AMBIGUOUS_NAME, AGENT_REVOKED, AGENT_RETIRED. */
  readonly rekeyable: (
    principal: Principal,
    idOrName: string,
  ) => Promise<{ id: string; name: string; clusterId: string }>;
  /** Agents that are not gone for good, per cluster; a cluster without any is missing. */
  readonly countByCluster: (clusterIds: readonly string[]) => Promise<ReadonlyMap<string, AgentCounts>>;
  /** What a cluster's deletion asks of its agents. */
  resident: Resident;
}

export function createAgents(ports: AgentPorts): Agents {
  const enrol = createEnrol(ports);
  return {
    register: (router) => registerAgents(router, ports),
    enrol: (request, context) => enrol(request, { ...context.values.get(requestKey), hosts: hostsOf(context) }),
    rotateKey: (claims, installationId, request, context) =>
      rotateKey(ports, claims, installationId, request, context.values.get(requestKey)),
    examineToken: (token, request) => examineToken(ports, token, request),
    examineAgent: (agentId, request) => examineAgent(ports, agentId, request),
    rekeyable: (principal, idOrName) => rekeyable(ports, principal, idOrName),
    countByCluster: (clusterIds) => countByCluster(ports.db, clusterIds),
    resident: residence(ports),
  };
}

/** The host and port that the client dialled, as it says itself. */
function hostsOf(context: CalledBy): string[] {
  const named = context.requestHeader.get("host");
  const dialled = URL.parse(context.url)?.host;
  return [named, dialled].filter((host) => typeof host === "string" && host !== "") as string[];
}
