/**
 * Writes what an applied manifest wants into rows.
 *
 * A2: a route or backend that stays keeps its id and its age, which decides between equal matches.
 */
import type { ApiServiceManifest, ProductManifest } from "@bowline/contract/products";
import { newId } from "@bowline/kernel";
import { sql } from "kysely";
import type { Tx } from "../../platform/transactions.ts";
import { specBytes } from "./rows.ts";
import type { StoredApiService, StoredPart } from "./snapshot.ts";

/** Rows in one statement: far below PostgreSQL's 65535 parameters. */
const rowsPerStatement = 1_000;

/** Writes what differs and returns the ids of the manifest's API services, in its order. */
export async function writeServices(
  tx: Tx,
  organisationId: string,
  services: readonly StoredApiService[],
  wanted: ProductManifest,
): Promise<string[]> {
  const ids: string[] = [];
  for (const next of wanted.apiServices) {
    const stored = services.find((service) => service.row.name === next.name);
    const id = stored?.row.id ?? newId("apisvc");
    if (stored === undefined)
      await tx
        .insertInto("api_services")
        .values({
          id,
          organisation_id: organisationId,
          name: next.name,
          display_name: next.displayName,
          description: next.description,
        })
        .execute();
    else if (stored.row.display_name !== next.displayName || stored.row.description !== next.description)
      await tx
        .updateTable("api_services")
        .set({
          display_name: next.displayName,
          description: next.description,
          version: sql`version + 1`,
          updated_at: sql`now()`,
        })
        .where("id", "=", id)
        .execute();
    await writeParts(tx, "routes", id, stored?.routes ?? new Map(), next.routes);
    await writeParts(tx, "backends", id, stored?.backends ?? new Map(), next.backends);
    ids.push(id);
  }
  return ids;
}

/** Adds, changes and removes until the rows are what the manifest says (A2). */
async function writeParts(
  tx: Tx,
  table: "routes" | "backends",
  apiServiceId: string,
  stored: ReadonlyMap<string, StoredPart>,
  wanted: ApiServiceManifest["routes"] | ApiServiceManifest["backends"],
): Promise<void> {
  const names = new Set(wanted.map((part) => part.name));
  const gone = [...stored.values()].filter((part) => !names.has(part.name)).map((part) => part.id);
  if (gone.length > 0) await tx.deleteFrom(table).where("id", "in", gone).execute();
  const different = wanted
    .map((part) => ({ name: part.name, spec: specBytes(part) }))
    .filter(({ name, spec }) => stored.get(name)?.spec.equals(spec) !== true);
  for (let at = 0; at < different.length; at += rowsPerStatement) {
    const rows = different.slice(at, at + rowsPerStatement).map(({ name, spec }) => ({
      id: newId(table === "routes" ? "route" : "backend"),
      api_service_id: apiServiceId,
      name,
      spec,
    }));
    await tx
      .insertInto(table)
      .values(rows)
      .onConflict((conflict) =>
        conflict.columns(["api_service_id", "name"]).doUpdateSet((row) => ({
          spec: row.ref("excluded.spec"),
          version: sql`${sql.table(table)}.version + 1`,
          updated_at: sql`now()`,
        })),
      )
      .execute();
  }
}

/** Makes these the product's API services. */
export async function attach(
  tx: Tx,
  productId: string,
  before: readonly string[],
  ids: readonly string[],
): Promise<void> {
  if (sameList(before, ids)) return;
  await tx.deleteFrom("product_api_services").where("product_id", "=", productId).execute();
  if (ids.length > 0)
    await tx
      .insertInto("product_api_services")
      .values(ids.map((id, position) => ({ product_id: productId, api_service_id: id, position })))
      .execute();
}

export function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item, index) => item === b[index]);
}
