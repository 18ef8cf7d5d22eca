/**
 * Who was shut out after the backup was taken. A restore over the database that
 * knows it carries it on; where that database is lost an operator has to
 * (restored.ts, I4).
 */
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, systemPrincipal } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import type { Work } from "../platform/transactions.ts";
import { continues, type Since } from "./since.ts";

/** A restore is nobody's request. */
export const byTheRestore: Caller = { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } };

/**
 * After markRestoredIn, so that no session is open. What is in flight for such an agent ends by its own limits, or with
 * `agent retire`. `backup`: where its history stood. Returns how many agents and accounts changed.
 */
export async function revokeAgain(
  work: Work,
  events: Events,
  since: Since,
  backup: { incarnation: number; position: number },
): Promise<number> {
  return (await revokeAgents(work, events, since, backup)) + (await revokeAccounts(work, events, since));
}

async function revokeAgents(
  work: Work,
  events: Events,
  since: Since,
  backup: Parameters<typeof continues>[1],
): Promise<number> {
  const absentIsDeleted = continues(since, backup);
  const live = await work.tx
    .selectFrom("agents")
    .select(["id", "state"])
    .where("state", "not in", ["REVOKED", "RETIRED"])
    .orderBy("id")
    .execute();
  let changed = 0;
  for (const { id, state } of live) {
    const known = since.agents.get(id)?.state;
    const isDeleted = since.deleted.has(id) || (known === undefined && absentIsDeleted); // since.ts, C1
    if (known !== "REVOKED" && known !== "RETIRED" && !isDeleted) continue;
    await work.tx
      .updateTable("agents")
      .set({ state: "REVOKED", version: sql`version + 1`, updated_at: sql`now()` })
      .where("id", "=", id)
      .execute();
    await audit(events, work, byTheRestore, {
      action: "agent.revoke",
      resourceKind: "agent",
      resourceId: id,
      organisationId: "",
      before: { state },
      after: { state: "REVOKED", because: `it was ${known ?? "DELETED"} in the database that a restore replaced` },
    });
    changed += 1;
  }
  return changed;
}

async function revokeAccounts(work: Work, events: Events, since: Since): Promise<number> {
  let changed = 0;
  for (const { id, revokedAt } of since.serviceAccounts) {
    const account = await work.tx
      .updateTable("service_accounts")
      .set({ revoked_at: revokedAt })
      .where("id", "=", id)
      .where("revoked_at", "is", null)
      .returning(["name", "organisation_id"])
      .executeTakeFirst();
    if (account === undefined) continue;
    const state = { name: account.name, state: "REVOKED", revokedAt: revokedAt.toISOString() };
    await audit(events, work, byTheRestore, {
      action: "service-account.revoke",
      resourceKind: "service-account",
      resourceId: id,
      organisationId: account.organisation_id,
      before: { name: account.name, state: "ACTIVE" },
      after: { ...state, because: "it was REVOKED in the database that a restore replaced" },
    });
    changed += 1;
  }
  return changed;
}
