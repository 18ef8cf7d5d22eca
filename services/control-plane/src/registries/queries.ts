/** Registries in SQL: by id or host, within what the principal may see. */
import type { Database } from "@bowline/db";
import { problem, registryHost } from "@bowline/kernel";
import { type Selectable, sql } from "kysely";
import { type Principal, seesAll } from "../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import type { Db } from "../platform/transactions.ts";

export type RegistryRow = Selectable<Database["registries"]>;

/** What an id can be; PostgreSQL can't even compare others (NUL). */
const idSpelling = /^registry_[a-z0-9]{1,64}$/;

/** Throws NOT_FOUND, and AMBIGUOUS_NAME for those who see several organisations. */
export async function findRegistry(db: Db, principal: Principal, idOrHost: string, lock = false): Promise<RegistryRow> {
  const missing = problem("NOT_FOUND", `There is no registry ${JSON.stringify(idOrHost)}.`);
  const host = registryHost(idOrHost);
  if (host === undefined && !idSpelling.test(idOrHost)) throw missing;
  let query = db
    .selectFrom("registries")
    .selectAll()
    .where(host === undefined ? "id" : "host", "=", host ?? idOrHost);
  if (!seesAll(principal)) query = query.where("organisation_id", "=", principal.organisationId);
  const found = await (lock ? query.forUpdate() : query).orderBy("id").limit(100).execute();
  const mine = found.filter((row) => row.organisation_id === principal.organisationId);
  const [row, another] = mine.length > 0 ? mine : found;
  if (another !== undefined)
    throw problem("AMBIGUOUS_NAME", `Several organisations have a registry ${idOrHost}; use the id.`);
  if (row === undefined) throw missing;
  return row;
}

/** One page, by host. Throws PAGE_TOKEN_INVALID. */
export async function listRegistries(
  db: Db,
  principal: Principal,
  request: { pageSize: number; pageToken: string; returnTotalSize: boolean },
) {
  const size = pageSize(request.pageSize);
  const after = pageKey("registries", request.pageToken, 2);
  let all = db.selectFrom("registries");
  if (!seesAll(principal)) all = all.where("organisation_id", "=", principal.organisationId);
  const rest = after === undefined ? all : all.where(sql<boolean>`(host, id) > (${after[0]}, ${after[1]})`);
  const rows = await rest
    .selectAll()
    .orderBy("host")
    .orderBy("id")
    .limit(size + 1)
    .execute();
  const totalSize = request.returnTotalSize
    ? (await all.select(sql<number>`count(*)::int`.as("count")).executeTakeFirstOrThrow()).count
    : undefined;
  return { ...cutPage(rows, size, "registries", (row) => [row.host, row.id]), totalSize };
}
