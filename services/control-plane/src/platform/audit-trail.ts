/**
 * Writes audit events in the transaction of the change, and notes them for
 * watches. What they say never holds a secret: callers pass resources as the
 * API shows them.
 */
import { insertRows } from "@bowline/db";
import { newId } from "@bowline/kernel";
import type { Caller } from "./context.ts";
import type { Events } from "./events.ts";
import type { Work } from "./transactions.ts";

export interface AuditEntry {
  /** `noun.verb`, e.g. `cluster.create`. */
  action: string;
  resourceKind: string;
  resourceId: string;
  /** The organisation that it concerns; empty: the installation. Default: the caller's. */
  organisationId?: string;
  before?: unknown;
  after?: unknown;
  /** `ok`, or the reason of a refusal. */
  outcome?: string;
}

/** Records who did what. */
export async function audit(events: Events, work: Work, caller: Caller, entry: AuditEntry): Promise<void> {
  await auditAll(events, work, [{ caller, entry }]);
}

const columns = {
  text: [
    ...(["id", "principal_id", "principal", "organisation_id", "action", "resource_kind", "resource_id"] as const),
    ...(["remote_address", "request_id", "outcome"] as const),
  ],
  jsonb: ["before", "after"],
} as const;

/** Records what several did in one transaction. */
export async function auditAll(
  events: Events,
  work: Work,
  deeds: readonly { caller: Caller; entry: AuditEntry }[],
): Promise<void> {
  const rows = deeds.map(({ caller, entry }) => ({
    id: newId("audit"),
    principal_id: caller.principal.id,
    principal: caller.principal.name,
    organisation_id: entry.organisationId ?? caller.principal.organisationId,
    action: entry.action,
    resource_kind: entry.resourceKind,
    resource_id: entry.resourceId,
    before: entry.before === undefined ? null : JSON.stringify(entry.before),
    after: entry.after === undefined ? null : JSON.stringify(entry.after),
    remote_address: caller.request.remoteAddress,
    request_id: caller.request.requestId,
    outcome: entry.outcome ?? "ok",
  }));
  await insertRows(work.tx, "audit_events", columns, rows);
  await events.note(
    work,
    rows.map((row) => ({ topic: "audit", subjectId: row.id, organisationId: row.organisation_id })),
  );
}
