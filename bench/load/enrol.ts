/** Agents for the load: enrolled over the API, with tokens for many, as a bulk rollout does it. */
import { createClient } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { generateKey, type KeyPair, signEnrolmentProof } from "@bowline/auth";
import { AgentService } from "@bowline/contract/agent";
import { newId } from "@bowline/kernel";

export interface Credentials {
  agentId: string;
  /** Undefined: a peer's agent, which has a name only. */
  key: KeyPair | undefined;
  installationId: string;
  runtimeIdentity: string;
  journalId: string;
}

/** Calls under way at the same time. */
const together = 32;

/** Agents take the tokens by turns. */
export async function enrol(url: string, tokens: readonly string[], count: number): Promise<Credentials[]> {
  const connection = new Http2SessionManager(url);
  const client = createClient(
    AgentService,
    createConnectTransport({ baseUrl: url, httpVersion: "2", sessionManager: connection }),
  );
  const enrolled: Credentials[] = [];
  let begun = 0;
  const one = async (): Promise<void> => {
    while (begun < count) {
      const token = tokens[begun % tokens.length] ?? "";
      begun += 1;
      // A host's name of its own, as hosts have: the same one for all is made unique by looking at all before.
      const hostname = newId("host").replace("_", "-").toLowerCase();
      const key = await generateKey("Ed25519");
      const sealing = await generateKey("X25519");
      const runtimeIdentity = newId("runtime");
      const proof = await signEnrolmentProof(key, {
        tokenId: token.split("_")[1] ?? "",
        audience: new URL(url).origin,
        runtimeIdentity,
        now: Date.now(),
      });
      const { agentId, installationId } = await client.enroll({
        ...{ token, proof, runtimeIdentity, runtime: "local", hostname, agentVersion: "0.0.0-bench" },
        ...{ signingKey: JSON.stringify(key.publicJwk), sealingKey: JSON.stringify(sealing.publicJwk) },
      });
      enrolled.push({ agentId, key, installationId, runtimeIdentity, journalId: newId("journal") });
    }
  };
  try {
    await Promise.all(Array.from({ length: together }, one));
  } finally {
    connection.abort();
  }
  return enrolled;
}

/** What a peer's agents go by. */
export function named(count: number): Credentials[] {
  return Array.from({ length: count }, (_, index) => ({
    ...{ agentId: `agent_${index}`, key: undefined, installationId: "" },
    ...{ runtimeIdentity: newId("runtime"), journalId: newId("journal") },
  }));
}
