/**
 * The rows of an API service's routes and backends, which are alike.
 *
 * Whoever changes one locks the API service first: what a route refers to is checked against its siblings.
 */
import type { Database } from "@bowline/db";
import { newId, problem } from "@bowline/kernel";
import { type Kysely, type Selectable, sql } from "kysely";
import type { Tx } from "../../platform/transactions.ts";
import { naming } from "./names.ts";
import { count } from "./listing.ts";
import { specBytes } from "./rows.ts";
import { type NamedRow, readable } from "./scope.ts";

export type PartTable = "routes" | "backends";

export type PartRow = Selectable<Database[PartTable]>;

/** As many as a manifest can have of an API service (products.proto). */
const maxParts = { routes: 1_000, backends: 100 } as const satisfies Record<PartTable, number>;
const nouns = { routes: "route", backends: "backend" } as const satisfies Record<PartTable, string>;

/** A spec as the contract has it. */
type Spec = { $typeName: string; name: string };

/** A route or backend of the API service by id or name. Throws NOT_FOUND. */
export async function findPart(
  db: Kysely<Database>,
  table: PartTable,
  apiService: NamedRow<"api_services">,
  idOrName: string,
): Promise<PartRow> {
  const row = readable(idOrName)
    ? await db
        .selectFrom(table)
        .selectAll()
        .where("api_service_id", "=", apiService.id)
        .where((where) => where.or([where("id", "=", idOrName), where("name", "=", idOrName)]))
        .executeTakeFirst()
    : undefined;
  if (row === undefined)
    throw problem(
      "NOT_FOUND",
      `The API service ${apiService.name} has no ${nouns[table]} ${JSON.stringify(idOrName)}.`,
    );
  return row;
}

/** Throws ALREADY_EXISTS, and INVALID_ARGUMENT where the API service has too many. */
export async function insertPart(tx: Tx, table: PartTable, apiServiceId: string, spec: Spec): Promise<PartRow> {
  const there = await count(tx.selectFrom(table).where("api_service_id", "=", apiServiceId));
  if (there >= maxParts[table])
    throw problem("INVALID_ARGUMENT", `An API service has at most ${maxParts[table]} ${table}.`);
  return naming(nouns[table], spec.name, () =>
    tx
      .insertInto(table)
      .values({ id: newId(nouns[table]), api_service_id: apiServiceId, name: spec.name, spec: specBytes(spec) })
      .returningAll()
      .executeTakeFirstOrThrow(),
  );
}

/** Throws ALREADY_EXISTS. */
export async function updatePart(tx: Tx, table: PartTable, id: string, spec: Spec): Promise<PartRow> {
  return naming(nouns[table], spec.name, () =>
    tx
      .updateTable(table)
      .set({ name: spec.name, spec: specBytes(spec), version: sql`version + 1`, updated_at: sql`now()` })
      .where("id", "=", id)
      .returningAll()
      .executeTakeFirstOrThrow(),
  );
}

export async function namesOf(tx: Tx, table: PartTable, apiServiceId: string): Promise<Set<string>> {
  const rows = await tx.selectFrom(table).select("name").where("api_service_id", "=", apiServiceId).execute();
  return new Set(rows.map((row) => row.name));
}
