/**
 * What only a broken agent does, or whoever has stolen something of one: it is
 * refused where it is found; here it is counted, and told to operators as an
 * audit event.
 *
 * U1: only about an agent that proved itself, by a signature or an access token
 *     of ours: nobody without a key writes into the audit trail.
 * U2: bounded: of each kind one event per agent and window; what is left out is
 *     counted.
 * U3: nothing waits for it, and its failure changes no answer.
 */
import { isProblem } from "@bowline/kernel";
import { RateLimiterMemory } from "rate-limiter-flexible";
import type { EnginePorts } from "../commands/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type MisuseKind, misuseKinds } from "../platform/metrics.ts";
import { transact } from "../platform/transactions.ts";

export interface MisuseFacts {
  /** What it was about, if anything: an id of ours. */
  about?: string;
  remoteAddress?: string;
  requestId?: string;
}

export interface Misuse {
  /** Counts it, and writes the event soon after. Never throws (U3). */
  note: (agentId: string, kind: MisuseKind, facts?: MisuseFacts) => void;
  /** Notes a refusal that is one of these. */
  refused(agentId: string, error: unknown, facts?: MisuseFacts): void;
  /** Events that are being written. */
  waiting(): number;
  /** Resolves when the events that are being written are written. */
  settled(): Promise<void>;
}

/** Enough to see that it goes on; a hostile agent writes a dozen rows an hour of each kind. */
const windowSeconds = 300;
/** Events that are being written at once; a small part of the pool's connections is kept busy, and little memory. */
const maxWriting = 20;

export function createMisuse(engine: () => EnginePorts): Misuse {
  const told = new RateLimiterMemory({ points: 1, duration: windowSeconds });
  const writing = new Set<Promise<void>>();

  async function tell(agentId: string, kind: MisuseKind, facts: MisuseFacts): Promise<void> {
    const first = await told.consume(`${kind} ${agentId}`).then(
      () => true,
      () => false, // U2
    );
    if (!first) return engine().metrics?.auditSuppressed();
    const { about, remoteAddress = "", requestId = "" } = facts;
    await transact(engine().db, async (work) => {
      const agent = await work.tx.selectFrom("agents").select("name").where("id", "=", agentId).executeTakeFirst();
      if (agent === undefined) return;
      await audit(
        engine().events,
        work,
        {
          principal: {
            kind: "agent",
            id: agentId,
            name: agent.name,
            role: "agent",
            organisationId: "",
            organisation: "",
          },
          request: { requestId, remoteAddress },
        },
        {
          action: "agent.misuse",
          resourceKind: "agent",
          resourceId: agentId,
          after: about === undefined ? undefined : { about },
          outcome: kind,
        },
      );
    });
  }

  const note: Misuse["note"] = (agentId, kind, facts = {}) => {
    engine().metrics?.misused(kind);
    if (writing.size >= maxWriting) return engine().metrics?.auditSuppressed(); // U2
    const written = tell(agentId, kind, facts)
      .catch((error: unknown) => engine().log.warn({ error, agentId, kind }, "a misuse could not be audited")) // U3
      .finally(() => writing.delete(written));
    writing.add(written);
  };
  return {
    note,
    refused(agentId, error, facts) {
      const kind = misuseKinds.find((known) => isProblem(error) && error.reason === known);
      if (kind !== undefined) note(agentId, kind, facts);
    },
    waiting: () => writing.size,
    async settled() {
      await Promise.all(writing);
    },
  };
}
