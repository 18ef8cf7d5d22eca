/** ProductService: products, applying a whole one, their revisions. */
import { create, toJson } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  type ApplyProductRequest,
  ApplyProductRequestSchema,
  type ApplyProductResponse,
  ApplyProductResponseSchema,
  type CreateProductRequest,
  CreateProductRequestSchema,
  type DeleteProductRequest,
  ListProductsResponseSchema,
  type Product,
  ProductSchema,
  ProductService,
  type UpdateProductRequest,
} from "@bowline/contract/products";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { audit } from "../../platform/audit-trail.ts";
import { type Caller, callerOf } from "../../platform/context.ts";
import { guardEtag } from "../../platform/etags.ts";
import { once } from "../../platform/idempotency.ts";
import { updated } from "../../platform/masks.ts";
import { type Tx, transact } from "../../platform/transactions.ts";
import { attach } from "./apply-rows.ts";
import { applyManifest } from "./apply.ts";
import { forgetPublishes, publishInForce } from "./in-force.ts";
import { listNamed } from "./listing.ts";
import { naming, repeated, requireName } from "./names.ts";
import type { CataloguePorts } from "./ports.ts";
import { revisionMethods } from "./revision-rpc.ts";
import { productOf } from "./rows.ts";
import { findNamed, type NamedRow, readable } from "./scope.ts";
import { apiServiceIdsOf } from "./snapshot.ts";
import { textViolations } from "./texts.ts";
import { refuseViolations, validateManifest } from "./validate.ts";

export function registerProducts(router: ConnectRouter, ports: CataloguePorts): void {
  const { db } = ports;
  router.service(ProductService, {
    listProducts: async (request, context) => {
      const page = await listNamed(db, "products", callerOf(context).principal, request);
      const ids = await apiServiceIdsOfAll(ports, page.rows);
      const products = page.rows.map((row) => productOf(row, ids.get(row.id) ?? []));
      return create(ListProductsResponseSchema, { ...page, products });
    },
    getProduct: async (request, context) => {
      const row = await findNamed(db, "products", callerOf(context).principal, request.id);
      return productOf(row, await apiServiceIdsOf(db, row.id));
    },
    createProduct: (request, context) => createProduct(ports, callerOf(context), request),
    updateProduct: (request, context) => updateProduct(ports, callerOf(context), request),
    deleteProduct: async (request, context) => {
      await deleteProduct(ports, callerOf(context), request);
      return create(EmptySchema);
    },
    applyProduct: (request, context) => applyProduct(ports, callerOf(context), request),
    ...revisionMethods(ports),
  });
}

async function apiServiceIdsOfAll({ db }: CataloguePorts, products: readonly { id: string }[]) {
  const ids = new Map<string, string[]>(products.map((row) => [row.id, []]));
  if (products.length === 0) return ids;
  const rows = await db
    .selectFrom("product_api_services")
    .select(["product_id", "api_service_id"])
    .where("product_id", "in", [...ids.keys()])
    .orderBy("position")
    .execute();
  for (const row of rows) ids.get(row.product_id)?.push(row.api_service_id);
  return ids;
}

async function createProduct(ports: CataloguePorts, caller: Caller, request: CreateProductRequest): Promise<Product> {
  const wanted = request.product ?? create(ProductSchema);
  requireName(wanted.name, "product.name");
  refuseViolations(textViolations(wanted, "product"));
  const { principal } = caller;
  const call = {
    principal,
    method: "CreateProduct",
    key: request.requestId,
    request,
    requestSchema: CreateProductRequestSchema,
    responseSchema: ProductSchema,
  };
  return naming("product", wanted.name, () =>
    once(ports.db, call, async (work) => {
      const ids = await resolveApiServices(work.tx, principal.organisationId, wanted.apiServiceIds);
      const row = await work.tx
        .insertInto("products")
        .values({
          id: newId("product"),
          organisation_id: principal.organisationId,
          name: wanted.name,
          display_name: wanted.displayName,
          description: wanted.description,
        })
        .returningAll()
        .executeTakeFirstOrThrow();
      await attach(work.tx, row.id, [], ids);
      const product = productOf(row, ids);
      await audit(ports.events, work, caller, {
        action: "product.create",
        resourceKind: "product",
        resourceId: row.id,
        organisationId: row.organisation_id,
        after: toJson(ProductSchema, product),
      });
      return product;
    }),
  );
}

async function updateProduct(ports: CataloguePorts, caller: Caller, request: UpdateProductRequest): Promise<Product> {
  const patch = request.product ?? create(ProductSchema);
  return naming("product", patch.name, () =>
    transact(ports.db, async (work) => {
      const row = await findNamed(work.tx, "products", caller.principal, patch.id, "update");
      guardEtag(patch.etag, row.version);
      const before = productOf(row, await apiServiceIdsOf(work.tx, row.id));
      const wanted = updated({
        schema: ProductSchema,
        before,
        patch,
        mask: request.updateMask,
        changeable: ["name", "display_name", "description", "api_service_ids"],
        at: "product",
      });
      requireName(wanted.name, "product.name");
      refuseViolations(textViolations(wanted, "product"));
      const ids = await resolveApiServices(work.tx, row.organisation_id, wanted.apiServiceIds);
      await attach(work.tx, row.id, before.apiServiceIds, ids);
      const changed = await work.tx
        .updateTable("products")
        .set({
          name: wanted.name,
          display_name: wanted.displayName,
          description: wanted.description,
          version: sql`version + 1`,
          updated_at: sql`now()`,
        })
        .where("id", "=", row.id)
        .returningAll()
        .executeTakeFirstOrThrow();
      const after = productOf(changed, ids);
      await audit(ports.events, work, caller, {
        action: "product.update",
        resourceKind: "product",
        resourceId: row.id,
        organisationId: row.organisation_id,
        before: toJson(ProductSchema, before),
        after: toJson(ProductSchema, after),
      });
      return after;
    }),
  );
}

async function deleteProduct(ports: CataloguePorts, caller: Caller, request: DeleteProductRequest): Promise<void> {
  await transact(ports.db, async (work) => {
    const row = await findNamed(work.tx, "products", caller.principal, request.id, "delete");
    guardEtag(request.etag, row.version);
    const of = { column: "product_id", id: row.id } as const;
    const publish = await publishInForce(work.tx, of);
    if (publish !== undefined)
      throw problem("PRODUCT_PUBLISHED", `The product ${row.name} is published; unpublish it first.`, {
        metadata: { publish: publish.id, state: publish.state },
      });
    const before = productOf(row, await apiServiceIdsOf(work.tx, row.id));
    await forgetPublishes(work.tx, of);
    await work.tx.deleteFrom("products").where("id", "=", row.id).execute();
    await audit(ports.events, work, caller, {
      action: "product.delete",
      resourceKind: "product",
      resourceId: row.id,
      organisationId: row.organisation_id,
      before: toJson(ProductSchema, before),
    });
  });
}

async function applyProduct(
  ports: CataloguePorts,
  caller: Caller,
  request: ApplyProductRequest,
): Promise<ApplyProductResponse> {
  const { manifest, dryRun } = request;
  if (manifest === undefined) throw problem("INVALID_ARGUMENT");
  refuseViolations(
    validateManifest(manifest).map(({ field, description }) => ({ field: `manifest.${field}`, description })),
  );
  // What only tells what would be may say something else next time.
  if (dryRun) return transact(ports.db, (work) => applyManifest(ports, work, caller, manifest, true));
  const call = {
    principal: caller.principal,
    method: "ApplyProduct",
    key: request.requestId,
    request,
    requestSchema: ApplyProductRequestSchema,
    responseSchema: ApplyProductResponseSchema,
  };
  // Two products at once may both make an API service that they share.
  return repeated("api_services_organisation_id_name_key", () =>
    once(ports.db, call, (work) => applyManifest(ports, work, caller, manifest, false)),
  );
}

/** Ids of API services that are given by id or name, in the product's organisation. Throws INVALID_ARGUMENT. */
async function resolveApiServices(tx: Tx, organisationId: string, given: readonly string[]): Promise<string[]> {
  if (given.length === 0) return [];
  const known = given.filter(readable);
  // Locked in order of id, so that none of them is deleted before the product refers to it.
  const rows: Pick<NamedRow<"api_services">, "id" | "name">[] = await tx
    .selectFrom("api_services")
    .select(["id", "name"])
    .where("organisation_id", "=", organisationId)
    .where((where) => where.or([where("id", "in", [...known, ""]), where("name", "in", [...known, ""])]))
    .orderBy("id")
    .forShare()
    .execute();
  const ids: string[] = [];
  const violations = given.flatMap((idOrName, index) => {
    const field = `product.api_service_ids[${index}]`;
    const row = rows.find(({ id, name }) => id === idOrName || name === idOrName);
    if (row === undefined) return [{ field, description: `There is no API service ${JSON.stringify(idOrName)}.` }];
    if (ids.includes(row.id))
      return [{ field, description: `${JSON.stringify(idOrName)} is in the list more than once.` }];
    ids.push(row.id);
    return [];
  });
  refuseViolations(violations);
  return ids;
}
