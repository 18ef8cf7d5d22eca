/** Whether whoever enrols has the key that it shows, and meant this server. */
import { verifyEnrolmentProof } from "@bowline/auth";
import type { EnrollRequest } from "@bowline/contract/agent";
import { problem } from "@bowline/kernel";
import type { RequestFacts } from "../platform/context.ts";
import { databaseTime } from "../platform/transactions.ts";
import type { Keys } from "./keys.ts";
import type { AgentPorts } from "./model.ts";

/** What is known of the request beside its body. */
export interface EnrolFacts extends RequestFacts {
  /** The hosts (with port) that the client says it dialled. */
  hosts: readonly string[];
}

/** More is a wrong clock, not a slow network; sessions would fail too. */
const maxSkewMs = 5 * 60_000;

/** Throws ENROLMENT_PROOF_INVALID, CLOCK_SKEW. */
export async function checkProof(
  ports: AgentPorts,
  request: EnrollRequest,
  facts: EnrolFacts,
  tokenId: string,
  keys: Keys,
): Promise<void> {
  const now = await databaseTime(ports.db);
  const verdict = await verifyEnrolmentProof(request.proof, keys.signing, { now, skewMs: maxSkewMs });
  if (!verdict.ok) throw problem(verdict.reason, verdict.message);
  const apartMs = now - verdict.issuedAtMs;
  if (Math.abs(apartMs) > maxSkewMs) {
    const seconds = Math.round(Math.abs(apartMs) / 1000);
    const how = apartMs > 0 ? "behind" : "ahead of";
    throw problem(
      "CLOCK_SKEW",
      `The agent's clock is about ${seconds} s ${how} the server's. Set it, then join again.`,
      {
        metadata: { skewSeconds: String(Math.round(-apartMs / 1000)) },
      },
    );
  }
  const { proof } = verdict;
  const wrong =
    proof.tokenId !== tokenId
      ? "another token"
      : proof.thumbprint !== keys.thumbprint
        ? "another key"
        : proof.runtimeIdentity !== request.runtimeIdentity
          ? "another runtime"
          : isOurs(ports.publicUrl(), facts.hosts, proof.audience)
            ? undefined
            : `another server (${proof.audience})`;
  if (wrong !== undefined) throw problem("ENROLMENT_PROOF_INVALID", `The proof was made for ${wrong}.`);
}

/** The public URL's origin, or the host that was dialled: agents in the same network may use another name. */
function isOurs(publicUrl: string, hosts: readonly string[], audience: string): boolean {
  const named = URL.parse(audience);
  if (named === null || named.origin !== audience.replace(/\/$/, "")) return false;
  return named.origin === URL.parse(publicUrl)?.origin || hosts.includes(named.host);
}
