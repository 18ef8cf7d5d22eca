/** Audit events in SQL, as the API shows them. */
import { create, type JsonObject } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type AuditEvent, AuditEventSchema } from "@bowline/contract/audit";
import type { AuditEventsTable } from "@bowline/db";
import { type Selectable, sql } from "kysely";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db } from "../platform/transactions.ts";

export interface AuditFilter {
  resourceId: string;
  principalId: string;
  actionPrefix: string;
}

function select(db: Db, filter: AuditFilter) {
  let query = db.selectFrom("audit_events");
  if (filter.resourceId !== "") query = query.where("resource_id", "=", filter.resourceId);
  if (filter.principalId !== "") query = query.where("principal_id", "=", filter.principalId);
  if (filter.actionPrefix !== "") query = query.where(sql<boolean>`starts_with(action, ${filter.actionPrefix})`);
  return query;
}

/** Newest first: ids sort by the millisecond of their making. */
export async function listAuditEvents(db: Db, list: AuditFilter & { pageSize: number; pageToken: string }) {
  const size = pageSize(list.pageSize);
  const [after] = pageKey("audit-events", list.pageToken, 1) ?? [];
  let query = select(db, list).selectAll();
  if (after !== undefined) query = query.where("id", "<", after);
  const rows = await query
    .orderBy("id", "desc")
    .limit(size + 1)
    .execute();
  return cutPage(rows, size, "audit-events", (row) => [row.id]);
}

/** The newest events, oldest of them first: how a watch begins. */
export async function newestAuditEvents(db: Db, count: number): Promise<AuditEvent[]> {
  const rows = await db.selectFrom("audit_events").selectAll().orderBy("id", "desc").limit(count).execute();
  return rows.toReversed().map(auditEventOf);
}

/** Undefined where it is no longer kept. */
export async function findAuditEvent(db: Db, id: string): Promise<AuditEvent | undefined> {
  const row = await db.selectFrom("audit_events").selectAll().where("id", "=", id).executeTakeFirst();
  return row === undefined ? undefined : auditEventOf(row);
}

export function auditEventOf(row: Selectable<AuditEventsTable>): AuditEvent {
  return create(AuditEventSchema, {
    id: row.id,
    at: timestampFromDate(row.at),
    principalId: row.principal_id,
    principal: row.principal,
    organisationId: row.organisation_id,
    action: row.action,
    resourceKind: row.resource_kind,
    resourceId: row.resource_id,
    before: (row.before as JsonObject | null) ?? undefined,
    after: (row.after as JsonObject | null) ?? undefined,
    remoteAddress: row.remote_address,
    requestId: row.request_id,
    outcome: row.outcome,
  });
}
