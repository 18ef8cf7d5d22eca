/** Who dials, and what it is greeted with: the assertion of a session, the access token of a unary call. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { type PublicJwk, readAssertionSubject, verifyAssertion } from "@bowline/auth";
import type { ConnectResponseSchema } from "@bowline/contract/agent";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Db } from "../platform/transactions.ts";
import { commandWindow } from "./dispatcher.ts";
import { type OpenedSession, protocolVersion } from "./open.ts";
import type { AccessTokens } from "./signing-keys.ts";

/** What an assertion proved. */
export interface Asserted {
  agentId: string;
  counter: number;
  /** Of the key that signed it. */
  thumbprint: string;
}

/** The token of an `authorization: Bearer …` header. Throws UNAUTHENTICATED. */
export function bearer(headers: Pick<Headers, "get">): string {
  const [scheme, token] = (headers.get("authorization") ?? "").split(" ", 2);
  if (scheme?.toLowerCase() !== "bearer" || token === undefined || token === "") {
    throw problem("UNAUTHENTICATED", "Send `authorization: Bearer <assertion or access token>`.");
  }
  return token;
}

/** Only whoever has that key hears this. */
function replacedProblem(key: { because: string; replaced_at: Date }) {
  const when = key.replaced_at.toISOString();
  const what =
    key.because === "REKEY"
      ? `A registration token gave this agent new keys at ${when}: another host is the agent now. What runs here goes on, unattended; to bring the agent back to this host, issue a token with \`token create --rekey\`.`
      : `The agent has replaced this key at ${when}. If this folder is an old copy, let the newer one run; if it is all that is left, issue a token with \`token create --rekey\`.`;
  return problem("AGENT_KEY_REPLACED", what, { metadata: { because: key.because, replacedAt: when } });
}

/** Verifies the assertion that opens a stream. Throws ASSERTION_INVALID, CLOCK_SKEW, AGENT_KEY_REPLACED, AGENT_REVOKED. */
export async function verifyDialler(db: Db, installationId: string, jwt: string): Promise<Asserted> {
  const agentId = readAssertionSubject(jwt);
  if (agentId === undefined) throw problem("ASSERTION_INVALID", "This is not an assertion.");
  const agent = await db
    .selectFrom("agents")
    .select(["signing_key", "signing_thumbprint", "state"])
    .select(sql<Date>`clock_timestamp()`.as("now")) // a replica's own clock may be wrong
    .where("id", "=", agentId)
    .executeTakeFirst();
  if (agent === undefined) throw problem("ASSERTION_INVALID", "This server does not know the agent.");
  const verify = (key: unknown) =>
    verifyAssertion(jwt, key as PublicJwk, { audience: installationId, now: agent.now.getTime() });
  const verdict = await verify(agent.signing_key);
  if (!verdict.ok) {
    const before = await db.selectFrom("replaced_keys").selectAll().where("agent_id", "=", agentId).execute();
    for (const key of before) if ((await verify(key.signing_key)).ok) throw replacedProblem(key);
    throw problem(verdict.reason, verdict.message);
  }
  if (agent.state === "REVOKED") throw problem("AGENT_REVOKED");
  return { agentId, counter: verdict.counter, thumbprint: agent.signing_thumbprint };
}

/** The answer to the greeting of a session that was opened. */
export async function welcome(
  ports: { tokens: AccessTokens; heartbeatIntervalMs: number; silenceLimitMs: number },
  opened: OpenedSession,
  agentId: string,
): Promise<MessageInitShape<typeof ConnectResponseSchema>> {
  const { sessionId, epoch, incarnation } = opened;
  return {
    sessionId,
    epoch,
    incarnation,
    accessToken: await ports.tokens.issue({ agentId, sessionId, epoch, incarnation }),
    accessTokenLifeMs: ports.tokens.lifeMs,
    heartbeatIntervalMs: ports.heartbeatIntervalMs,
    window: commandWindow,
    serverTime: timestampNow(),
    protocol: protocolVersion,
    silenceLimitMs: ports.silenceLimitMs,
  };
}
