/**
 * Whether a poll session's request is let through.
 *
 * G1: its access token holds, and its rows decide (E1), whichever replica asks
 *     and whatever the token said when it was issued: the session is open, at
 *     that epoch, of an agent that may come.
 * G2: an agent that has more requests open than one needs, or says more than
 *     one has to say, is refused before the database is asked.
 */
import type { AccessTokenClaims } from "@bowline/auth";
import type { HandlerContext } from "@connectrpc/connect";
import { problem } from "@bowline/kernel";
import { requestKey } from "../platform/context.ts";
import type { Db } from "../platform/transactions.ts";
import type { CertificateGuard } from "./certificates.ts";
import type { SessionClaims } from "./fetch.ts";
import { bearer } from "./greet.ts";
import type { Misuse } from "./misuse.ts";
import type { Pace } from "./pace.ts";
import type { AccessTokens } from "./signing-keys.ts";

/** What its row says of a poll session. */
export interface SessionRow {
  state: string;
  replicaId: string;
  clusterId: string;
  journalWhole: boolean;
}

/** A request whose session may go on. */
export interface Asked {
  claims: AccessTokenClaims;
  row: SessionRow;
}

/**
 * Runs a request that is let through. Throws UNAUTHENTICATED, TOKEN_EXPIRED,
 * OVERLOADED, CLIENT_CERTIFICATE_REQUIRED, CLIENT_CERTIFICATE_MISMATCH, AGENT_REVOKED, AGENT_RETIRED, SESSION_SUPERSEDED, SESSION_EXPIRED.
 * `late`: also of a session that has ended; what it says is judged by its epoch.
 */
export type Ask = <T>(
  context: Pick<HandlerContext, "requestHeader" | "values">,
  body: (asked: Asked) => Promise<T>,
  late?: boolean,
) => Promise<T>;

/** A poll, and a few reports under way; a well-behaved agent has two requests open. */
const maxAtOnce = 8;

export function createGate(ports: {
  db: Db;
  tokens: Pick<AccessTokens, "verify">;
  certificates: Pick<CertificateGuard, "check">;
  /** The half of a session that is here, to be told that its agent lives. */
  polls: { of(claims: SessionClaims): { heard(): void } | undefined };
  pace: Pace;
  misuse: Pick<Misuse, "refused">;
  /** Is told of each request above what one agent may have open. */
  refused(limit: "agent-requests"): void;
}): Ask {
  const underWay = new Map<string, number>();
  return async (context, body, late = false) => {
    const claims = await ports.tokens.verify(bearer(context.requestHeader));
    const { agentId } = claims;
    const count = underWay.get(agentId) ?? 0;
    if (count >= maxAtOnce) {
      ports.refused("agent-requests");
      throw problem("OVERLOADED", `This agent has ${maxAtOnce} requests open.`, { retryAfterMs: 1_000 }); // G2
    }
    ports.pace.count(agentId); // G2
    underWay.set(agentId, (underWay.get(agentId) ?? 0) + 1);
    try {
      const row = await fenceOf(ports.db, claims, late).catch((error: unknown) => {
        ports.misuse.refused(agentId, error, context.values.get(requestKey));
        throw error;
      }); // G1
      await ports.certificates.check(agentId, context.values.get(requestKey));
      ports.polls.of(claims)?.heard();
      return await body({ claims, row });
    } finally {
      const left = (underWay.get(agentId) ?? 1) - 1;
      if (left > 0) underWay.set(agentId, left);
      else underWay.delete(agentId);
    }
  };
}

async function fenceOf(db: Db, claims: SessionClaims, late: boolean): Promise<SessionRow> {
  const row = await db
    .selectFrom("agents as a")
    .innerJoin("sessions as s", "s.agent_id", "a.id")
    .select(["a.state as agent", "a.cluster_id", "s.id", "s.epoch", "s.state", "s.replica_id", "s.journal_whole"])
    .where("a.id", "=", claims.agentId)
    .executeTakeFirst();
  if (row === undefined || row.agent === "REVOKED") throw problem("AGENT_REVOKED");
  if (row.agent === "RETIRED") throw problem("AGENT_RETIRED");
  const own = row.id === claims.sessionId && row.epoch === claims.epoch;
  if (!late) {
    if (row.epoch > claims.epoch) throw problem("SESSION_SUPERSEDED");
    // Who awaits a decision may go on, as on a stream: claims pass it by.
    const mayCome = row.agent === "ENROLLED" || row.agent === "AWAITING_DECISION";
    if (!own || row.state === "ENDED" || !mayCome) throw problem("SESSION_EXPIRED");
  }
  return {
    state: own ? row.state : "ENDED",
    replicaId: row.replica_id,
    clusterId: row.cluster_id,
    journalWhole: row.journal_whole,
  };
}
