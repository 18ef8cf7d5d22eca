/**
 * The client certificate of an agent's connection: checked at each unary call,
 * and refusals noted. What opens a session is checked in its transaction
 * (open.ts).
 */
import { type Clock, isProblem, type Problem, problem } from "@bowline/kernel";
import { certificateProblemsOf, type Presented } from "../agents/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type RequestFacts, systemPrincipal } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import { createBatcher } from "../platform/batches.ts";
import { type Db, transact } from "../platform/transactions.ts";

export interface CertificateGuard {
  /** Throws CLIENT_CERTIFICATE_REQUIRED, CLIENT_CERTIFICATE_MISMATCH. */
  check(agentId: string, request: RequestFacts): Promise<void>;
  /** Writes a refusal because of a certificate into the audit trail; leaves any other error alone. */
  note(agentId: string, request: RequestFacts, error: unknown): Promise<void>;
}

/** An agent that is refused dials again each minute; one line in ten minutes tells as much. */
const noteAgainAfterMs = 600_000;
/** Agents that are remembered for that; above the fleet of one replica. */
const maxRemembered = 20_000;
/** Calls that wait for the look before theirs: seconds of it. */
const maxWaiting = 10_000;

export function createCertificateGuard(ports: { db: Db; events: () => Events; clock: Clock }): CertificateGuard {
  const noted = new Map<string, number>();
  const isNew = (key: string): boolean => {
    const now = ports.clock.monotonicMs();
    if (now - (noted.get(key) ?? Number.NEGATIVE_INFINITY) < noteAgainAfterMs) return false;
    noted.delete(key);
    noted.set(key, now);
    const oldest = noted.size > maxRemembered ? noted.keys().next().value : undefined;
    if (oldest !== undefined) noted.delete(oldest);
    return true;
  };
  const looks = createBatcher<Presented, Problem | undefined>((asked) => certificateProblemsOf(ports.db, asked), {
    maxWaiting,
    overloaded: () => problem("OVERLOADED", "More calls wait for the database than this replica takes."),
    everybodys: () => true,
  });
  const guard: CertificateGuard = {
    async check(agentId, request) {
      const refused = await looks.add({ agentId, presented: request.clientCertificate ?? "" });
      if (refused === undefined) return;
      await guard.note(agentId, request, refused);
      throw refused;
    },
    async note(agentId, request, error) {
      if (!isProblem(error, "CLIENT_CERTIFICATE_REQUIRED") && !isProblem(error, "CLIENT_CERTIFICATE_MISMATCH")) return;
      if (!isNew(`${agentId} ${error.reason}`)) return;
      await transact(ports.db, (work) =>
        audit(
          ports.events(),
          work,
          { principal: systemPrincipal, request },
          {
            action: "agent.client-certificate",
            resourceKind: "agent",
            resourceId: agentId,
            organisationId: "",
            after: { presented: request.clientCertificate ?? "" },
            outcome: error.reason,
          },
        ),
      );
    },
  };
  return guard;
}
