/**
 * Who was shut out after the backup was taken. A restore over the database that
 * knows it carries it on; where that database is lost an operator has to
 * (restored.ts, I4).
 */
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import { systemPrincipal } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import type { Tx, Work } from "../platform/transactions.ts";

export interface Revocations {
  agents: { id: string; state: string }[];
  serviceAccounts: { id: string; revokedAt: Date }[];
}

/**
 * What a database that is about to be replaced says, whatever its schema. Undefined: it is of another installation, or
 * none of ours.
 */
export async function readRevocations(tx: Tx, installationId: string): Promise<Revocations | undefined> {
  const { rows: found } = await sql<{ ours: boolean }>`SELECT count(*) = 4 AS ours FROM information_schema.columns
    WHERE table_schema = current_schema() AND (table_name, column_name) IN
      (('installation', 'id'), ('agents', 'state'), ('service_accounts', 'revoked_at'), ('service_accounts', 'id'))`.execute(
    tx,
  );
  if (found[0]?.ours !== true) return undefined;
  const installation = await tx.selectFrom("installation").select("id").executeTakeFirst();
  if (installation?.id !== installationId) return undefined;
  const agents = await tx
    .selectFrom("agents")
    .select(["id", "state"])
    .where("state", "in", ["REVOKED", "RETIRED"])
    .execute();
  const accounts = await tx
    .selectFrom("service_accounts")
    .select(["id", "revoked_at as revokedAt"])
    .where("revoked_at", "is not", null)
    .$narrowType<{ revokedAt: Date }>()
    .execute();
  return { agents, serviceAccounts: accounts };
}

/**
 * After markRestoredIn, so that no session is open. What is in flight for such an agent ends by its own limits, or with
 * `agent retire`. Returns how many changed.
 */
export async function revokeAgain(work: Work, events: Events, known: Revocations): Promise<number> {
  const { tx } = work;
  const changed: string[] = [];
  for (const { id, state } of known.agents) {
    const { numUpdatedRows } = await tx
      .updateTable("agents")
      .set({ state: "REVOKED", version: sql`version + 1`, updated_at: sql`now()` })
      .where("id", "=", id)
      .where("state", "not in", ["REVOKED", "RETIRED"])
      .executeTakeFirst();
    if (numUpdatedRows === 0n) continue;
    changed.push(id);
    await audit(
      events,
      work,
      { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } },
      {
        action: "agent.revoke",
        resourceKind: "agent",
        resourceId: id,
        organisationId: "",
        after: { state: "REVOKED", because: `it was ${state} in the database that a restore replaced` },
      },
    );
  }
  for (const { id, revokedAt } of known.serviceAccounts) {
    const { numUpdatedRows } = await tx
      .updateTable("service_accounts")
      .set({ revoked_at: revokedAt })
      .where("id", "=", id)
      .where("revoked_at", "is", null)
      .executeTakeFirst();
    if (numUpdatedRows > 0n) changed.push(id);
  }
  return changed.length;
}
