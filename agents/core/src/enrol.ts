/** Enrolment: once, with a registration token; again with the same key where the reply was lost. */
import { createClient, type Transport } from "@connectrpc/connect";
import { parseToken, signEnrolmentProof } from "@bowline/auth";
import { AgentService } from "@bowline/contract/agent";
import { type Clock, fullJitter } from "@bowline/kernel";
import { refusalOf } from "@bowline/session";
import type { Enrolled, Identity } from "./identity.ts";
import { agentVersion } from "./version.ts";

export interface EnrolFacts {
  server: string;
  token: string;
  name: string;
  hostname: string;
  labels: Record<string, string>;
  runtime: string;
  runtimeIdentity: string;
}

export type EnrolEnd =
  | { kind: "enrolled"; enrolled: Enrolled }
  | { kind: "refused"; reason: string; message: string }
  | { kind: "stopped" };

/** Codes after which the same request can't succeed. */
const final = new Set([
  "REGISTRATION_TOKEN_MALFORMED",
  "REGISTRATION_TOKEN_UNKNOWN",
  "REGISTRATION_TOKEN_USED",
  "REGISTRATION_TOKEN_EXPIRED",
  "REGISTRATION_TOKEN_REVOKED",
  "CLUSTER_MISMATCH",
  "CLUSTER_DELETING",
  "ENROLMENT_PROOF_INVALID",
  "CLOCK_SKEW",
  "INVALID_ARGUMENT",
  "AGENT_REVOKED",
  "CLIENT_CERTIFICATE_REQUIRED",
  "AGENT_RETIRED",
  "AGENT_KEY_IN_USE",
  "AGENT_KEY_REPLACED",
]);

const wait = { baseMs: 500, capMs: 30_000, floorMs: 200 };

/** Enrols, trying again while the server can't be reached or its reply is lost; over each transport by turns. */
export async function enrol(
  transports: readonly Transport[],
  identity: Identity,
  facts: EnrolFacts,
  ports: { clock: Clock; log: { warn(fields: object, message: string): void } },
  signal: AbortSignal,
): Promise<EnrolEnd> {
  const token = parseToken(facts.token);
  if (token?.prefix !== "bwr")
    return {
      kind: "refused",
      reason: "REGISTRATION_TOKEN_MALFORMED",
      message: "this is not a registration token (bwr_…)",
    };
  const clients = transports.map((transport) => createClient(AgentService, transport));
  const { signing, sealing } = identity.keys.current();
  for (let attempt = 0; !signal.aborted; attempt += 1) {
    const client = clients[attempt % clients.length];
    if (client === undefined) break;
    try {
      const answer = await client.enroll(
        {
          token: facts.token,
          signingKey: JSON.stringify(signing.publicJwk),
          sealingKey: JSON.stringify(sealing.publicJwk),
          proof: await signEnrolmentProof(signing, {
            tokenId: token.id,
            audience: new URL(facts.server).origin,
            runtimeIdentity: facts.runtimeIdentity,
            now: ports.clock.now(),
          }),
          name: facts.name,
          hostname: facts.hostname,
          labels: facts.labels,
          runtime: facts.runtime,
          runtimeIdentity: facts.runtimeIdentity,
          agentVersion,
        },
        { signal },
      );
      const { agentId, name, clusterId, cluster, installationId } = answer;
      const enrolled: Enrolled = { agentId, name, clusterId, cluster, installationId, server: facts.server };
      await identity.keep(enrolled);
      return { kind: "enrolled", enrolled };
    } catch (error) {
      if (signal.aborted) break;
      const refusal = refusalOf(error);
      if (final.has(refusal.reason)) return { kind: "refused", reason: refusal.reason, message: refusal.message };
      const forMs = refusal.retryAfterMs ?? fullJitter(wait, attempt);
      ports.log.warn(
        { reason: refusal.reason, detail: refusal.message, retryInMs: Math.round(forMs) },
        "could not enrol; tried again",
      );
      await ports.clock.sleep(forMs, signal);
    }
  }
  return { kind: "stopped" };
}
