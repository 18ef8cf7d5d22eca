/**
 * Makes a product exactly what a manifest says.
 *
 * A1: applying the same manifest again changes nothing and makes no revision.
 * A2: a route or backend that stays keeps its id and its age (apply-rows.ts).
 * A3: locks are taken in one order: the product, then API services by id.
 */
import { create, toJson } from "@bufbuild/protobuf";
import {
  type ApplyProductResponse,
  ApplyProductResponseSchema,
  type Change,
  Change_Kind,
  ChangeSchema,
  type ProductManifest,
  ProductManifestSchema,
} from "@bowline/contract/products";
import { newId } from "@bowline/kernel";
import { sql } from "kysely";
import { audit } from "../../platform/audit-trail.ts";
import type { Caller } from "../../platform/context.ts";
import type { Tx, Work } from "../../platform/transactions.ts";
import { attach, sameList, writeServices } from "./apply-rows.ts";
import { diffManifests } from "./diff.ts";
import type { CataloguePorts } from "./ports.ts";
import { makeRevision, newestRevision } from "./revisions.ts";
import { productOf, revisionOf } from "./rows.ts";
import { findById, type NamedRow } from "./scope.ts";
import {
  apiServiceIdsOf,
  canonical,
  contentOf,
  manifestOfRows,
  readApiServices,
  type StoredApiService,
} from "./snapshot.ts";

/**
 * Applies a checked manifest in the caller's organisation. With `dryRun` nothing is written, and the answer has what
 * is there now beside what would change.
 */
export async function applyManifest(
  ports: Pick<CataloguePorts, "events">,
  work: Work,
  caller: Caller,
  given: ProductManifest,
  dryRun: boolean,
): Promise<ApplyProductResponse> {
  const { tx } = work;
  const organisationId = caller.principal.organisationId;
  const wanted = canonical(given);
  const { product, isNew } = await lockProduct(tx, organisationId, wanted, dryRun);
  const attachedIds = product === undefined ? [] : await apiServiceIdsOf(tx, product.id);
  const services = await lockServices(tx, organisationId, attachedIds, wanted);
  const attached = services.filter((service) => attachedIds.includes(service.row.id));

  const before = product === undefined || isNew ? undefined : manifestOfRows(product, attached);
  const shared = await sharers(tx, product?.id ?? "", services, wanted);
  const changes = [...changesOf(before, services, attached, wanted), ...shared.changes];
  if (dryRun) {
    const newest = product === undefined ? undefined : await newestRevision(tx, product);
    return create(ApplyProductResponseSchema, {
      ...(product === undefined ? {} : { product: productOf(product, attachedIds) }),
      ...(newest === undefined ? {} : { revision: revisionOf(newest) }),
      changes,
    });
  }
  if (product === undefined) throw new Error("a product that is not tried out was not made");

  const ids = await writeServices(tx, organisationId, services, wanted);
  await attach(tx, product.id, attachedIds, ids);
  const gone = attached.filter((service) => !ids.includes(service.row.id) && !shared.ids.has(service.row.id));
  if (gone.length > 0)
    await tx
      .deleteFrom("api_services")
      .where(
        "id",
        "in",
        gone.map((service) => service.row.id),
      )
      .execute();
  const differs = product.display_name !== wanted.displayName || product.description !== wanted.description;
  if (differs || (!isNew && !sameList(attachedIds, ids)))
    await tx
      .updateTable("products")
      .set({
        display_name: wanted.displayName,
        description: wanted.description,
        version: sql`version + 1`,
        updated_at: sql`now()`,
      })
      .where("id", "=", product.id)
      .execute();
  const previous = await newestRevision(tx, product);
  const revision = await makeRevision(tx, product, wanted, caller.principal.id);
  if (changes.length > 0 || previous?.id !== revision.id)
    await audit(ports.events, work, caller, {
      action: "product.apply",
      resourceKind: "product",
      resourceId: product.id,
      organisationId,
      ...(previous === undefined ? {} : { before: { revision: previous.number, digest: previous.digest } }),
      after: {
        revision: revision.number,
        digest: revision.digest,
        changes: changes.map((change) => toJson(ChangeSchema, change)),
      },
    });
  const now = await findById(tx, "products", product.id);
  return create(ApplyProductResponseSchema, {
    product: productOf(now ?? product, ids),
    revision: revisionOf(revision),
    changes,
  });
}

/** The product's row, locked; made where it is missing. Two that make the same one at once: the second waits here. */
async function lockProduct(
  tx: Tx,
  organisationId: string,
  wanted: ProductManifest,
  dryRun: boolean,
): Promise<{ product: NamedRow<"products"> | undefined; isNew: boolean }> {
  const made = dryRun
    ? undefined
    : await tx
        .insertInto("products")
        .values({
          id: newId("product"),
          organisation_id: organisationId,
          name: wanted.name,
          display_name: wanted.displayName,
          description: wanted.description,
        })
        .onConflict((conflict) => conflict.columns(["organisation_id", "name"]).doNothing())
        .returningAll()
        .executeTakeFirst();
  if (made !== undefined) return { product: made, isNew: true };
  const product = await tx
    .selectFrom("products")
    .selectAll()
    .where("organisation_id", "=", organisationId)
    .where("name", "=", wanted.name)
    .forNoKeyUpdate()
    .executeTakeFirst();
  return { product, isNew: false };
}

/** The API services that the product has, and those that the manifest names; locked in order of id (A3). */
async function lockServices(
  tx: Tx,
  organisationId: string,
  attachedIds: readonly string[],
  wanted: ProductManifest,
): Promise<StoredApiService[]> {
  const named = await tx
    .selectFrom("api_services")
    .select("id")
    .where("organisation_id", "=", organisationId)
    .where(
      "name",
      "in",
      wanted.apiServices.map((service) => service.name),
    )
    .execute();
  return readApiServices(tx, [...new Set([...attachedIds, ...named.map((row) => row.id)])], "update");
}

/** What differs, with API services that exist but are not the product's yet compared to what they are now. */
function changesOf(
  before: ProductManifest | undefined,
  services: readonly StoredApiService[],
  attached: readonly StoredApiService[],
  wanted: ProductManifest,
): Change[] {
  const taken = services.filter((service) => !attached.includes(service));
  const known = manifestOfRows({ name: "", display_name: "", description: "" }, taken);
  const base =
    before === undefined
      ? { ...create(ProductManifestSchema), apiServices: known.apiServices }
      : canonical({ ...before, apiServices: [...before.apiServices, ...known.apiServices] });
  const changes = diffManifests(base, wanted);
  const attaching = taken.map((service) =>
    create(ChangeSchema, {
      kind: Change_Kind.ADDED,
      path: `api_services/${service.row.name}`,
      after: JSON.stringify({ exists: true }),
    }),
  );
  if (before !== undefined) return [...attaching, ...changes];
  // A new product is one change, not one for each of its texts.
  const [productItself] = diffManifests(undefined, { ...wanted, apiServices: [] });
  return [
    ...(productItself === undefined ? [] : [productItself]),
    ...attaching,
    ...changes.filter((change) => change.path.startsWith("api_services/")),
  ];
}

/** Other products that have these API services too: what is applied changes them as well, so they are told. */
async function sharers(
  tx: Tx,
  productId: string,
  services: readonly StoredApiService[],
  wanted: ProductManifest,
): Promise<{ ids: Set<string>; changes: Change[] }> {
  if (services.length === 0) return { ids: new Set(), changes: [] };
  const rows = await tx
    .selectFrom("product_api_services as has")
    .innerJoin("products as p", "p.id", "has.product_id")
    .select(["p.name as product", "has.api_service_id"])
    .where("p.id", "<>", productId)
    .where(
      "has.api_service_id",
      "in",
      services.map((service) => service.row.id),
    )
    .orderBy("p.name")
    .execute();
  const changes = rows.flatMap(({ product, api_service_id }) => {
    const stored = services.find((service) => service.row.id === api_service_id);
    const next = wanted.apiServices.find((service) => service.name === stored?.row.name);
    if (stored === undefined || next === undefined) return [];
    const digests = [manifestOfRows({ name: "", display_name: "", description: "" }, [stored]).apiServices, [next]].map(
      (apiServices) => contentOf(create(ProductManifestSchema, { apiServices })).digest,
    );
    if (digests[0] === digests[1]) return [];
    const [before, after] = digests.map((digest) => JSON.stringify({ digest }));
    const path = `products/${product}/api_services/${next.name}`;
    return [create(ChangeSchema, { kind: Change_Kind.CHANGED, path, before, after })];
  });
  return { ids: new Set(rows.map((row) => row.api_service_id)), changes };
}
