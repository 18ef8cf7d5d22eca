/** Secrets in SQL: by id or name, within what the principal may see. */
import type { Database } from "@bowline/db";
import { problem } from "@bowline/kernel";
import { type Selectable, sql } from "kysely";
import { type Principal, seesAll } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db } from "../platform/transactions.ts";

export type SecretRow = Selectable<Database["secrets"]>;

/** What an id or a name can be; PostgreSQL can't even compare others (NUL). */
const spelling = /^[a-z0-9_-]{1,100}$/;

/** Throws NOT_FOUND, and AMBIGUOUS_NAME for those who see several organisations. */
export async function findSecret(db: Db, principal: Principal, idOrName: string, lock = false): Promise<SecretRow> {
  const missing = problem("NOT_FOUND", `There is no secret ${JSON.stringify(idOrName)}.`);
  if (!spelling.test(idOrName)) throw missing;
  let query = db
    .selectFrom("secrets")
    .selectAll()
    .where("stack_id", "=", "") // those are their stack's
    .where((where) => where.or([where("id", "=", idOrName), where("name", "=", idOrName)]));
  if (!seesAll(principal)) query = query.where("organisation_id", "=", principal.organisationId);
  const found = await (lock ? query.forUpdate() : query).orderBy("id").limit(100).execute();
  const mine = found.filter((row) => row.organisation_id === principal.organisationId);
  const [row, another] = mine.length > 0 ? mine : found;
  if (another !== undefined)
    throw problem("AMBIGUOUS_NAME", `Several organisations have a secret named ${idOrName}; use the id.`);
  if (row === undefined) throw missing;
  return row;
}

/** One page, by name. Throws PAGE_TOKEN_INVALID. */
export async function listSecrets(
  db: Db,
  principal: Principal,
  request: { pageSize: number; pageToken: string; returnTotalSize: boolean },
) {
  const size = pageSize(request.pageSize);
  const after = pageKey("secrets", request.pageToken, 2);
  let all = db.selectFrom("secrets").where("stack_id", "=", "");
  if (!seesAll(principal)) all = all.where("organisation_id", "=", principal.organisationId);
  const rest = after === undefined ? all : all.where(sql<boolean>`(name, id) > (${after[0]}, ${after[1]})`);
  const rows = await rest
    .selectAll()
    .orderBy("name")
    .orderBy("id")
    .limit(size + 1)
    .execute();
  const totalSize = request.returnTotalSize
    ? (await all.select(sql<number>`count(*)::int`.as("count")).executeTakeFirstOrThrow()).count
    : undefined;
  return { ...cutPage(rows, size, "secrets", (row) => [row.name, row.id]), totalSize };
}
