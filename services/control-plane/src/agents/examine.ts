/**
 * AgentService.Examine: what an enrolment or a dial would be answered, without
 * doing it. Whoever asks has the token or the key, and learns nothing more than
 * by using it.
 */
import { matches, parseToken } from "@bowline/auth";
import { problem } from "@bowline/kernel";
import { findRegistrationToken, lockForEnrolment } from "../clusters/index.ts";
import type { RequestFacts } from "../platform/context.ts";
import { transact } from "../platform/transactions.ts";
import { certificateProblem, certificateProblemOf } from "./certificates.ts";
import { requiresCertificate, tokenProblem } from "./token-problems.ts";
import { type AgentPorts, goneProblem } from "./model.ts";
import { deletedProblem } from "./rekey.ts";

/** Whose token or key it is; see ExamineResponse. */
export interface Examined {
  agentId?: string;
  agent?: string;
  cluster: string;
  awaitingDecision?: boolean;
}

/** Throws what Enroll would. */
export async function examineToken(ports: AgentPorts, text: string, request: RequestFacts): Promise<Examined> {
  const token = parseToken(text.trim());
  if (token?.prefix !== "bwr") throw problem("REGISTRATION_TOKEN_MALFORMED");
  const tokenId = `rt_${token.id}`;
  const known = await findRegistrationToken(ports.db, tokenId);
  if (known === undefined || !matches(known.secret_hash, token.secret)) throw problem("REGISTRATION_TOKEN_UNKNOWN");
  return transact(ports.db, async ({ tx }) => {
    const locked = await lockForEnrolment(tx, tokenId);
    if (locked === undefined) throw problem("REGISTRATION_TOKEN_UNKNOWN");
    const { cluster, state, rekeyAgentId } = locked;
    const refused =
      tokenProblem(state, cluster) ??
      certificateProblem(requiresCertificate(cluster), "", request.clientCertificate ?? "");
    if (refused !== undefined) throw refused;
    if (rekeyAgentId === null) return { cluster: cluster.name };
    const agent = await tx
      .selectFrom("agents")
      .select(["name", "state"])
      .where("id", "=", rekeyAgentId)
      .executeTakeFirst();
    if (agent === undefined) throw deletedProblem();
    const gone = goneProblem(agent);
    if (gone !== undefined) throw gone;
    return { cluster: cluster.name, agentId: rekeyAgentId, agent: agent.name };
  });
}

/** Of an agent whose assertion was verified. Throws what Connect would; not AGENT_CONFLICT, which `conflict` tells. */
export async function examineAgent(
  ports: AgentPorts,
  agentId: string,
  request: RequestFacts,
): Promise<{ examined: Examined; conflict: string | undefined }> {
  const agent = await ports.db
    .selectFrom("agents as a")
    .innerJoin("clusters as c", "c.id", "a.cluster_id")
    .select(["a.name", "a.state", "a.conflict", "c.name as cluster"])
    .where("a.id", "=", agentId)
    .executeTakeFirst();
  if (agent === undefined) throw problem("ASSERTION_INVALID", "This server does not know the agent.");
  if (agent.state === "RETIRED") throw problem("AGENT_RETIRED");
  const unproven = await certificateProblemOf(ports.db, agentId, request.clientCertificate ?? "");
  if (unproven !== undefined) throw unproven;
  return {
    examined: {
      agentId,
      agent: agent.name,
      cluster: agent.cluster,
      awaitingDecision: agent.state === "AWAITING_DECISION",
    },
    conflict: agent.state === "CONFLICT" ? agent.conflict : undefined,
  };
}
