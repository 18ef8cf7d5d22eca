/** Enrolment of simulated agents: keys in memory, one call on the connection that the first session takes. */
import { generateKey, type KeyPair, signAssertion, signEnrolmentProof } from "@bowline/auth";
import { AgentService } from "@bowline/contract/agent";
import { newId } from "@bowline/kernel";
import type { AgentConnection } from "./connection.ts";
import { simulatedVersion } from "./session.ts";

export interface EnrolledAgent {
  agentId: string;
  name: string;
  clusterId: string;
  cluster: string;
  runtimeIdentity: string;
  sign: (floor: number, now: number) => Promise<string>;
}

export interface EnrolFacts {
  /** Origin of the server's URL. */
  audience: string;
  /** Text of a registration token. */
  token: string;
  name: string;
  runtime: string;
  labels: Record<string, string>;
}

/** Rejects with the server's ConnectError. */
export async function enrolSimulated(connection: AgentConnection, facts: EnrolFacts): Promise<EnrolledAgent> {
  const key = await generateKey("Ed25519");
  const sealing = await generateKey("X25519"); // it opens nothing: only its public half is needed
  const runtimeIdentity = newId("runtime");
  const { token, name, runtime, labels, audience } = facts;
  const enrolled = await connection.call(AgentService.method.enroll, {
    ...{ token, name, runtime, labels, runtimeIdentity },
    signingKey: JSON.stringify(key.publicJwk),
    sealingKey: JSON.stringify(sealing.publicJwk),
    proof: await signEnrolmentProof(key, {
      tokenId: token.split("_")[1] ?? "",
      ...{ audience, runtimeIdentity, now: Date.now() },
    }),
    hostname: name,
    agentVersion: simulatedVersion,
  });
  const { agentId, clusterId, cluster, installationId } = enrolled;
  return {
    ...{ agentId, name: enrolled.name, clusterId, cluster, runtimeIdentity },
    sign: signer(key, agentId, installationId),
  };
}

function signer(key: KeyPair, agentId: string, audience: string): EnrolledAgent["sign"] {
  let counter = 0;
  return (floor, now) => {
    counter = Math.max(counter, floor, Date.now()) + 1;
    return signAssertion(key, { agentId, audience, counter, now });
  };
}
