/**
 * Revisions: immutable snapshots of a product.
 *
 * R1: a revision's content is written once; its number grows by one within the product, under the product's lock.
 * R2: content that equals the newest revision's gives that revision; anything else a new number, also content that
 *     an older revision has, so that the newest revision always tells what the product was.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { type ProductManifest, ProductManifestSchema } from "@bowline/contract/products";
import type { Database } from "@bowline/db";
import { isId, newId, problem } from "@bowline/kernel";
import { type Kysely, type Selectable, sql } from "kysely";
import type { Caller } from "../../platform/context.ts";
import type { Tx, Work } from "../../platform/transactions.ts";
import { findNamed, type NamedRow } from "./scope.ts";
import { sizeViolations } from "./sizes.ts";
import { canonical, contentOf, manifestOf } from "./snapshot.ts";
import { refuseViolations } from "./validate.ts";

export type RevisionRow = Selectable<Database["product_revisions"]>;

/** A revision that a publish can place. */
export interface PublishableRevision {
  productId: string;
  productName: string;
  /** Not a draft any more. */
  published: boolean;
  /** The product's organisation; not always the caller's, because admins see all. */
  organisationId: string;
  revisionId: string;
  number: number;
  content: ProductManifest;
}

/**
 * The revision to publish; "" makes one of the product as it is now. Locks the product's row until the transaction
 * ends. Throws NOT_FOUND, AMBIGUOUS_NAME, PRODUCT_EMPTY where there is no route to serve, and INVALID_ARGUMENT where
 * there is more than data planes serve.
 */
export async function revisionForPublish(
  work: Work,
  caller: Caller,
  productIdOrName: string,
  revisionIdOrNumber: string,
): Promise<PublishableRevision> {
  const product = await findNamed(work.tx, "products", caller.principal, productIdOrName, "update");
  const revision =
    revisionIdOrNumber === ""
      ? await makeRevision(work.tx, product, await manifestOf(work.tx, product), caller.principal.id)
      : await findRevision(work.tx, product, revisionIdOrNumber);
  const content = fromBinary(ProductManifestSchema, revision.content);
  refuseUnservable(content);
  return {
    productId: product.id,
    productName: product.name,
    published: product.state !== "DRAFT",
    organisationId: product.organisation_id,
    revisionId: revision.id,
    number: revision.number,
    content,
  };
}

/** Shows a product to customers: a publish of it is in force. Only a draft changes (DRAFT → PUBLISHED). */
export async function markPublished(work: Work, productId: string): Promise<void> {
  await work.tx
    .updateTable("products")
    .set({ state: "PUBLISHED", version: sql`version + 1`, updated_at: sql`now()` })
    .where("id", "=", productId)
    .where("state", "=", "DRAFT")
    .execute();
}

/** Throws PRODUCT_EMPTY where a manifest has no route, INVALID_ARGUMENT where it is more than data planes serve. */
export function refuseUnservable(manifest: ProductManifest): void {
  if (manifest.apiServices.every((service) => service.routes.length === 0))
    throw problem("PRODUCT_EMPTY", `The product ${manifest.name} has no route to serve.`);
  refuseViolations(sizeViolations(manifest));
}

/** The newest revision if it has this content, else a new one (R2). The caller holds the product's row. */
export async function makeRevision(
  tx: Tx,
  product: NamedRow<"products">,
  manifest: ProductManifest,
  createdBy: string,
): Promise<RevisionRow> {
  const { content, digest } = contentOf(canonical(manifest));
  const newest = await newestRevision(tx, product);
  if (newest?.digest === digest) return newest;
  const number = product.latest_revision + 1;
  await tx.updateTable("products").set({ latest_revision: number }).where("id", "=", product.id).execute();
  return tx
    .insertInto("product_revisions")
    .values({ id: newId("revision"), product_id: product.id, number, content, digest, created_by: createdBy })
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** The product's newest revision; undefined where it has none. */
export async function newestRevision(
  db: Kysely<Database>,
  product: NamedRow<"products">,
): Promise<RevisionRow | undefined> {
  if (product.latest_revision === 0) return undefined;
  return db
    .selectFrom("product_revisions")
    .selectAll()
    .where("product_id", "=", product.id)
    .where("number", "=", product.latest_revision)
    .executeTakeFirst();
}

/** Digits that fit PostgreSQL's integer. */
const numberPattern = /^[1-9]\d{0,8}$/;

/** A revision of the product by id or number. Throws NOT_FOUND. */
export async function findRevision(
  db: Kysely<Database>,
  product: NamedRow<"products">,
  idOrNumber: string,
): Promise<RevisionRow> {
  const query = db.selectFrom("product_revisions").selectAll().where("product_id", "=", product.id);
  const row = isId("revision", idOrNumber)
    ? await query.where("id", "=", idOrNumber).executeTakeFirst()
    : numberPattern.test(idOrNumber)
      ? await query.where("number", "=", Number(idOrNumber)).executeTakeFirst()
      : undefined;
  if (row === undefined) throw problem("NOT_FOUND", `The product ${product.name} has no revision ${idOrNumber}.`);
  return row;
}
