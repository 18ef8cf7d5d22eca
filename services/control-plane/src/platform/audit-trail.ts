/**
 * Writes audit events in the transaction of the change, and notes them for
 * watches. What they say never holds a secret: callers pass resources as the
 * API shows them.
 */
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
  const id = newId("audit");
  const organisationId = entry.organisationId ?? caller.principal.organisationId;
  await work.tx
    .insertInto("audit_events")
    .values({
      id,
      principal_id: caller.principal.id,
      principal: caller.principal.name,
      organisation_id: organisationId,
      action: entry.action,
      resource_kind: entry.resourceKind,
      resource_id: entry.resourceId,
      before: entry.before === undefined ? null : JSON.stringify(entry.before),
      after: entry.after === undefined ? null : JSON.stringify(entry.after),
      remote_address: caller.request.remoteAddress,
      request_id: caller.request.requestId,
      outcome: entry.outcome ?? "ok",
    })
    .execute();
  await events.note(work, [{ topic: "audit", subjectId: id, organisationId }]);
}
