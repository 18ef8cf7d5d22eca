/** Organisations and service accounts in SQL. */
import { problem } from "@bowline/kernel";
import { type SelectQueryBuilder, sql } from "kysely";
import type { Database } from "@bowline/db";
import { systemPrincipal } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db, Tx } from "../platform/transactions.ts";
import type { OrganisationRow, ServiceAccountRow } from "./model.ts";

/** An organisation by id or name; undefined where there is none. */
export function findOrganisation(db: Db | Tx, idOrName: string): Promise<OrganisationRow | undefined> {
  return db
    .selectFrom("organisations")
    .selectAll()
    .where((where) => where.or([where("id", "=", idOrName), where("name", "=", idOrName)]))
    .executeTakeFirst();
}

/** An organisation by id or name. Throws NOT_FOUND. */
export async function getOrganisation(db: Db | Tx, idOrName: string): Promise<OrganisationRow> {
  const found = await findOrganisation(db, idOrName);
  if (found === undefined) throw problem("NOT_FOUND", `There is no organisation ${idOrName}.`);
  return found;
}

export async function listOrganisations(db: Db, page: { pageSize: number; pageToken: string }) {
  const size = pageSize(page.pageSize);
  const after = pageKey("organisations", page.pageToken, 1);
  let query = db.selectFrom("organisations").selectAll();
  if (after?.[0] !== undefined) query = query.where("name", ">", after[0]);
  const rows = await query
    .orderBy("name")
    .limit(size + 1)
    .execute();
  return cutPage(rows, size, "organisations", (row) => [row.name]);
}

export async function countOrganisations(db: Db): Promise<number> {
  const { count } = await db
    .selectFrom("organisations")
    .select(sql<number>`count(*)::int`.as("count"))
    .executeTakeFirstOrThrow();
  return count;
}

const serviceAccountColumns = [
  "id",
  "organisation_id",
  "name",
  "role",
  "expires_at",
  "revoked_at",
  "last_used_at",
  "created_by",
  "created_at",
] as const;

function selectServiceAccounts(db: Db | Tx) {
  return shown(db.selectFrom("service_accounts"));
}

function shown<Row>(query: SelectQueryBuilder<Database, "service_accounts", Row>) {
  return query.select(serviceAccountColumns).select(sql<boolean>`coalesce(expires_at <= now(), false)`.as("expired"));
}

/** Newest first: ids sort by the millisecond of their making. */
export async function listServiceAccounts(
  db: Db,
  page: { pageSize: number; pageToken: string; organisationId: string | undefined },
) {
  const size = pageSize(page.pageSize);
  const after = pageKey("service-accounts", page.pageToken, 1);
  let query = selectServiceAccounts(db);
  if (page.organisationId !== undefined) query = query.where("organisation_id", "=", page.organisationId);
  if (after?.[0] !== undefined) query = query.where("id", "<", after[0]);
  const rows: ServiceAccountRow[] = await query
    .orderBy("id", "desc")
    .limit(size + 1)
    .execute();
  return cutPage(rows, size, "service-accounts", (row) => [row.id]);
}

/** Throws NOT_FOUND. `lock` takes the row for an update. */
export async function getServiceAccount(db: Db | Tx, id: string, lock = false): Promise<ServiceAccountRow> {
  let query = selectServiceAccounts(db).where("id", "=", id);
  if (lock) query = query.forNoKeyUpdate();
  const row = await query.executeTakeFirst();
  if (row === undefined) throw problem("NOT_FOUND", `There is no service account ${id}.`);
  return row;
}

/** Throws what PostgreSQL says where a live one of the organisation has the name. */
export async function insertServiceAccount(
  tx: Tx,
  account: {
    id: string;
    organisationId: string;
    name: string;
    role: string;
    hash: Uint8Array;
    /** Undefined: it never expires. */
    lifeMs: number | undefined;
    createdBy: string;
  },
): Promise<void> {
  // An expired one gives its name free: it can never be used again.
  await tx
    .updateTable("service_accounts")
    .set({ revoked_at: sql<Date>`now()` })
    .where("organisation_id", "=", account.organisationId)
    .where("name", "=", account.name)
    .where("revoked_at", "is", null)
    .where("expires_at", "<=", sql<Date>`now()`)
    .execute();
  await tx
    .insertInto("service_accounts")
    .values({
      id: account.id,
      organisation_id: account.organisationId,
      name: account.name,
      role: account.role,
      secret_hash: Buffer.from(account.hash),
      expires_at:
        account.lifeMs === undefined ? null : sql<Date>`now() + make_interval(secs => ${account.lifeMs / 1000})`,
      created_by: account.createdBy,
    })
    .execute();
}

export async function revokeServiceAccount(tx: Tx, id: string): Promise<void> {
  await tx
    .updateTable("service_accounts")
    .set({ revoked_at: sql<Date>`now()` })
    .where("id", "=", id)
    .where("revoked_at", "is", null)
    .execute();
}

/** Principals that have this id or name, by name also those that are revoked: their ids. */
export async function accountsCalled(db: Db, idOrName: string): Promise<string[]> {
  const rows = await db.selectFrom("service_accounts").select("id").where("name", "=", idOrName).execute();
  return [idOrName, ...rows.map(({ id }) => id)];
}

/** Names of principals by id, for people; who is not known any more is missing. */
export async function accountNames(db: Db | Tx, ids: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const asked = [...new Set(ids)].filter((id) => id !== "" && id !== systemPrincipal.id);
  const rows =
    asked.length === 0
      ? []
      : await db.selectFrom("service_accounts").select(["id", "name"]).where("id", "in", asked).execute();
  return new Map([[systemPrincipal.id, systemPrincipal.name], ...rows.map(({ id, name }) => [id, name] as const)]);
}

/** Those of these principals whose token is not valid any more: revoked, or too old. */
export async function shutOut(db: Db, ids: readonly string[]): Promise<Set<string>> {
  if (ids.length === 0) return new Set();
  const rows = await db
    .selectFrom("service_accounts")
    .select("id")
    .where("id", "in", [...new Set(ids)])
    .where((where) => where.or([where("revoked_at", "is not", null), where("expires_at", "<=", sql<Date>`now()`)]))
    .execute();
  return new Set(rows.map(({ id }) => id));
}
