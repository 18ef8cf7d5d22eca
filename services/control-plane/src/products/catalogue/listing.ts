/** Pages of what has a name: in order of name, then id. */
import type { Database } from "@bowline/db";
import type { Kysely } from "kysely";
import { sql } from "kysely";
import { type Principal, seesAll } from "../../platform/context.ts";
import { cutPage, pageKey, pageSize } from "../../platform/pages.ts";
import type { NamedRow } from "./scope.ts";

export interface PageRequest {
  pageSize: number;
  pageToken: string;
  returnTotalSize: boolean;
}

export interface Page<Row> {
  rows: Row[];
  nextPageToken: string;
  totalSize: number | undefined;
}

/** One page of an organisation's rows, or of every organisation's for those who see all. Throws PAGE_TOKEN_INVALID. */
export async function listNamed<Table extends "api_services" | "gateways" | "products">(
  db: Kysely<Database>,
  table: Table,
  principal: Principal,
  request: PageRequest,
): Promise<Page<NamedRow<Table>>> {
  const size = pageSize(request.pageSize);
  const after = pageKey(table, request.pageToken, 2);
  // The three tables share the columns that are read here.
  let all = db.selectFrom(table as "products");
  if (!seesAll(principal)) all = all.where("organisation_id", "=", principal.organisationId);
  const rest = after === undefined ? all : all.where(sql<boolean>`(name, id) > (${after[0]}, ${after[1]})`);
  const rows = await rest
    .selectAll()
    .orderBy("name")
    .orderBy("id")
    .limit(size + 1)
    .execute();
  const page = cutPage(rows, size, table, (row) => [row.name, row.id]);
  return {
    rows: page.rows as NamedRow<Table>[],
    nextPageToken: page.nextPageToken,
    totalSize: request.returnTotalSize ? await count(all) : undefined,
  };
}

/** One page of an API service's routes or backends. Throws PAGE_TOKEN_INVALID. */
export async function listParts(
  db: Kysely<Database>,
  table: "routes" | "backends",
  apiServiceId: string,
  request: PageRequest,
) {
  const size = pageSize(request.pageSize);
  const after = pageKey(table, request.pageToken, 1);
  const all = db.selectFrom(table).where("api_service_id", "=", apiServiceId);
  const rest = after === undefined ? all : all.where("name", ">", after[0] ?? "");
  const rows = await rest
    .selectAll()
    .orderBy("name")
    .limit(size + 1)
    .execute();
  return {
    ...cutPage(rows, size, table, (row) => [row.name]),
    totalSize: request.returnTotalSize ? await count(all) : undefined,
  };
}

/** What counts its rows: any select of one table. */
interface Countable {
  select(what: ReturnType<typeof countOfAll>): { executeTakeFirst(): Promise<{ count: number } | undefined> };
}

function countOfAll() {
  return sql<number>`count(*)::int`.as("count");
}

export async function count(query: unknown): Promise<number> {
  return (await (query as Countable).select(countOfAll()).executeTakeFirst())?.count ?? 0;
}
