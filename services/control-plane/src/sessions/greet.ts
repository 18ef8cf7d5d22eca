/** Who dials: verifies the assertion of a stream and the access token of a unary call. */
import { type PublicJwk, readAssertionSubject, verifyAssertion } from "@bowline/auth";
import { problem } from "@bowline/kernel";
import type { Db } from "../platform/transactions.ts";

/** What an assertion proved. */
export interface Asserted {
  agentId: string;
  counter: number;
}

/** The token of an `authorization: Bearer …` header. Throws UNAUTHENTICATED. */
export function bearer(headers: Headers): string {
  const [scheme, token] = (headers.get("authorization") ?? "").split(" ", 2);
  if (scheme?.toLowerCase() !== "bearer" || token === undefined || token === "") {
    throw problem("UNAUTHENTICATED", "Send `authorization: Bearer <assertion or access token>`.");
  }
  return token;
}

/** Verifies the assertion that opens a stream. Throws ASSERTION_INVALID, CLOCK_SKEW, AGENT_REVOKED. */
export async function verifyDialler(db: Db, installationId: string, headers: Headers): Promise<Asserted> {
  const jwt = bearer(headers);
  const agentId = readAssertionSubject(jwt);
  if (agentId === undefined) throw problem("ASSERTION_INVALID", "This is not an assertion.");
  const agent = await db
    .selectFrom("agents")
    .select(["signing_key", "state"])
    .where("id", "=", agentId)
    .executeTakeFirst();
  if (agent === undefined) throw problem("ASSERTION_INVALID", "This server does not know the agent.");
  const verdict = await verifyAssertion(jwt, agent.signing_key as PublicJwk, {
    audience: installationId,
    now: Date.now(),
  });
  if (!verdict.ok) throw problem(verdict.reason, verdict.message);
  if (agent.state === "REVOKED") throw problem("AGENT_REVOKED");
  return { agentId, counter: verdict.counter };
}
