/**
 * A product as it is now, as one manifest, in the one form that revisions are
 * made of.
 *
 * M1: the same product has the same bytes: names decide the order, not the file
 *     and not the age, and fields that this build does not know are left out.
 * M2: a manifest is read under a lock of its API services, so that it never
 *     shows half of a change.
 */
import { createHash } from "node:crypto";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BackendSchema, HttpRouteSchema } from "@bowline/contract/deployments";
import { type ApiServiceManifestSchema, type ProductManifest, ProductManifestSchema } from "@bowline/contract/products";
import type { Database } from "@bowline/db";
import type { Kysely, Selectable } from "kysely";
import type { Tx } from "../../platform/transactions.ts";

/** A route or backend as it is stored. */
export interface StoredPart {
  id: string;
  apiServiceId: string;
  name: string;
  spec: Buffer;
}

/** An API service with its routes and backends by name. */
export interface StoredApiService {
  row: Selectable<Database["api_services"]>;
  routes: Map<string, StoredPart>;
  backends: Map<string, StoredPart>;
}

/** Reads and locks API services, in order of id (M2). Unknown ids are left out. */
export async function readApiServices(
  tx: Tx,
  ids: readonly string[],
  lock: "share" | "update",
): Promise<StoredApiService[]> {
  if (ids.length === 0) return [];
  const query = tx
    .selectFrom("api_services")
    .selectAll()
    .where("id", "in", [...ids])
    .orderBy("id");
  const rows = await (lock === "share" ? query.forShare() : query.forNoKeyUpdate()).execute();
  const services = new Map(
    rows.map((row) => [row.id, { row, routes: new Map(), backends: new Map() } as StoredApiService]),
  );
  for (const table of ["routes", "backends"] as const) {
    const parts = await tx
      .selectFrom(table)
      .select(["id", "api_service_id as apiServiceId", "name", "spec"])
      .where("api_service_id", "in", [...ids])
      .execute();
    for (const part of parts) services.get(part.apiServiceId)?.[table].set(part.name, part);
  }
  return [...services.values()];
}

/** Ids of a product's API services, in the order that the product gives them. */
export async function apiServiceIdsOf(tx: Kysely<Database>, productId: string): Promise<string[]> {
  const rows = await tx
    .selectFrom("product_api_services")
    .select("api_service_id")
    .where("product_id", "=", productId)
    .orderBy("position")
    .execute();
  return rows.map((row) => row.api_service_id);
}

/** The product as it is now. The caller holds the product's row. */
export async function manifestOf(tx: Tx, product: Selectable<Database["products"]>): Promise<ProductManifest> {
  const services = await readApiServices(tx, await apiServiceIdsOf(tx, product.id), "share");
  return manifestOfRows(product, services);
}

export function manifestOfRows(
  product: { name: string; display_name: string; description: string },
  services: readonly StoredApiService[],
): ProductManifest {
  return canonical(
    create(ProductManifestSchema, {
      name: product.name,
      displayName: product.display_name,
      description: product.description,
      apiServices: services.map(apiServiceManifestOf),
    }),
  );
}

function apiServiceManifestOf(service: StoredApiService): MessageInitShape<typeof ApiServiceManifestSchema> {
  return {
    name: service.row.name,
    displayName: service.row.display_name,
    description: service.row.description,
    routes: [...service.routes.values()].map((part) => fromBinary(HttpRouteSchema, part.spec)),
    backends: [...service.backends.values()].map((part) => fromBinary(BackendSchema, part.spec)),
  };
}

/** The manifest in the one form that digests are made of (M1). */
export function canonical(manifest: ProductManifest): ProductManifest {
  const copy = fromBinary(
    ProductManifestSchema,
    toBinary(ProductManifestSchema, manifest, { writeUnknownFields: false }),
  );
  copy.apiServices.sort(byName);
  for (const service of copy.apiServices) {
    service.routes.sort(byName);
    service.backends.sort(byName);
  }
  return copy;
}

/** By code unit, so that no locale changes a digest. */
export function byName(a: { name: string }, b: { name: string }): number {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

/** The stored bytes of a canonical manifest, and their SHA-256. */
export function contentOf(manifest: ProductManifest): { content: Buffer; digest: string } {
  const content = Buffer.from(toBinary(ProductManifestSchema, manifest, { writeUnknownFields: false }));
  return { content, digest: createHash("sha256").update(content).digest("hex") };
}
