/**
 * Client certificates that a cluster requires of its agents
 * (`policy.client_certificates`), and to which each agent is bound.
 *
 * B1: an agent is bound to one certificate by its thumbprint (SHA-256 of the
 *     DER). With another one its key is worth nothing, with its key another
 *     certificate neither.
 * B2: an agent that is bound to none is bound to the first valid one with which
 *     it enrols, is rekeyed or opens a session. Only an operator takes a binding
 *     away (UpdateAgent) or a registration token that rekeys.
 * B3: a certificate counts only if the server's CA of clients issued it: the
 *     port sees to that, and tells the thumbprint.
 */
import { type Problem, problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Db, Tx } from "../platform/transactions.ts";

/** Why an agent of a cluster may not come over this connection; undefined: it may. `bound` empty: to none yet. */
export function certificateProblem(required: boolean, bound: string, presented: string): Problem | undefined {
  if (!required) return undefined;
  if (presented === "") {
    return problem(
      "CLIENT_CERTIFICATE_REQUIRED",
      "The cluster requires a client certificate, and none came that the server's CA of clients issued. Start the agent with --client-cert and --client-key.",
    );
  }
  if (bound === "" || bound === presented) return undefined;
  return problem(
    "CLIENT_CERTIFICATE_MISMATCH",
    "The agent is bound to another client certificate. After a renewal an operator binds it anew: `agent bind-certificate`.",
    { metadata: { presented } },
  );
}

/** B2: remembers the certificate where the agent has none. The caller holds the agent's row. */
export async function bindCertificate(tx: Tx, agentId: string, presented: string): Promise<void> {
  if (presented === "") return;
  await tx
    .updateTable("agents")
    .set({ client_certificate: presented })
    .where("id", "=", agentId)
    .where("client_certificate", "=", "")
    .execute();
}

/** B2, rekeying: the new host's certificate, or none until it comes with one. */
export async function rebindCertificate(tx: Tx, agentId: string, presented: string): Promise<void> {
  await tx.updateTable("agents").set({ client_certificate: presented }).where("id", "=", agentId).execute();
}

/** A connection of an agent, with the certificate that it presented. */
export interface Presented {
  agentId: string;
  presented: string;
}

/** Why this agent may not come over this connection; undefined: it may, or there is no such agent. */
export async function certificateProblemOf(
  db: Db | Tx,
  agentId: string,
  presented: string,
): Promise<Problem | undefined> {
  const [found] = await certificateProblemsOf(db, [{ agentId, presented }]);
  return found;
}

/** The same of several, in their order. */
export async function certificateProblemsOf(
  db: Db | Tx,
  asked: readonly Presented[],
): Promise<(Problem | undefined)[]> {
  const rows = await db
    .selectFrom("agents as a")
    .innerJoin("clusters as c", "c.id", "a.cluster_id")
    .select(["a.id", "a.client_certificate", "c.policy"])
    .where("a.id", "=", sql<string>`any(${asked.map(({ agentId }) => agentId)})`)
    .execute();
  const byAgent = new Map(rows.map((row) => [row.id, row]));
  return asked.map(({ agentId, presented }) => {
    const row = byAgent.get(agentId);
    return row === undefined ? undefined : certificateProblemBy(row.policy, row.client_certificate, presented);
  });
}

/** The same, of rows that the caller has read. */
export function certificateProblemBy(policy: unknown, bound: string, presented: string): Problem | undefined {
  return certificateProblem(requiresCertificate(policy), bound, presented);
}

function requiresCertificate(policy: unknown): boolean {
  return (policy as { clientCertificates?: string } | null)?.clientCertificates === "REQUIRED";
}
