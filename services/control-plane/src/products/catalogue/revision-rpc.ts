/** ProductService's methods for revisions. */
import { create, fromBinary, toJson } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type CreateRevisionRequest,
  CreateRevisionRequestSchema,
  type DiffRevisionRequest,
  type DiffRevisionResponse,
  DiffRevisionResponseSchema,
  type ListRevisionsRequest,
  type ListRevisionsResponse,
  ListRevisionsResponseSchema,
  type ProductManifest,
  ProductManifestSchema,
  type ProductService,
  type Revision,
  RevisionSchema,
} from "@bowline/contract/products";
import { problem } from "@bowline/kernel";
import { audit } from "../../platform/audit-trail.ts";
import { type Caller, callerOf, type Principal } from "../../platform/context.ts";
import { once } from "../../platform/idempotency.ts";
import { cutPage, pageKey, pageSize } from "../../platform/pages.ts";
import { transact } from "../../platform/transactions.ts";
import { diffManifests } from "./diff.ts";
import { count } from "./listing.ts";
import type { CataloguePorts } from "./ports.ts";
import { findRevision, makeRevision, refuseUnservable } from "./revisions.ts";
import { revisionOf } from "./rows.ts";
import { findNamed } from "./scope.ts";
import { manifestOf } from "./snapshot.ts";

type RevisionMethods = Pick<
  ServiceImpl<typeof ProductService>,
  "createRevision" | "listRevisions" | "getRevision" | "diffRevision"
>;

export function revisionMethods(ports: CataloguePorts): RevisionMethods {
  const { db } = ports;
  return {
    createRevision: (request, context) => createRevision(ports, callerOf(context), request),
    listRevisions: (request, context) => listRevisions(ports, callerOf(context).principal, request),
    getRevision: async (request, context) => {
      const product = await findNamed(db, "products", callerOf(context).principal, request.productId);
      return revisionOf(await findRevision(db, product, request.id));
    },
    diffRevision: (request, context) => diffRevision(ports, callerOf(context).principal, request),
  };
}

async function createRevision(
  ports: CataloguePorts,
  caller: Caller,
  request: CreateRevisionRequest,
): Promise<Revision> {
  const call = {
    principal: caller.principal,
    method: "CreateRevision",
    key: request.requestId,
    request,
    requestSchema: CreateRevisionRequestSchema,
    responseSchema: RevisionSchema,
  };
  return once(ports.db, call, async (work) => {
    const product = await findNamed(work.tx, "products", caller.principal, request.productId, "update");
    const manifest = await manifestOf(work.tx, product);
    refuseUnservable(manifest);
    const row = await makeRevision(work.tx, product, manifest, caller.principal.id);
    if (row.number > product.latest_revision)
      await audit(ports.events, work, caller, {
        action: "revision.create",
        resourceKind: "revision",
        resourceId: row.id,
        organisationId: product.organisation_id,
        after: toJson(RevisionSchema, revisionOf(row)),
      });
    return revisionOf(row);
  });
}

async function listRevisions(
  { db }: CataloguePorts,
  principal: Principal,
  request: ListRevisionsRequest,
): Promise<ListRevisionsResponse> {
  const product = await findNamed(db, "products", principal, request.productId);
  const size = pageSize(request.pageSize);
  const [after] = pageKey(`revisions ${product.id}`, request.pageToken, 1) ?? [];
  if (after !== undefined && !/^\d{1,9}$/.test(after)) throw problem("PAGE_TOKEN_INVALID");
  const all = db.selectFrom("product_revisions").where("product_id", "=", product.id);
  const rows = await (after === undefined ? all : all.where("number", "<", Number(after)))
    .select(["id", "product_id", "number", "digest", "created_by", "created_at"])
    .orderBy("number", "desc")
    .limit(size + 1)
    .execute();
  const page = cutPage(rows, size, `revisions ${product.id}`, (row) => [row.number]);
  return create(ListRevisionsResponseSchema, {
    revisions: page.rows.map(revisionOf),
    nextPageToken: page.nextPageToken,
    totalSize: request.returnTotalSize ? await count(all) : undefined,
  });
}

async function diffRevision(
  { db }: CataloguePorts,
  principal: Principal,
  request: DiffRevisionRequest,
): Promise<DiffRevisionResponse> {
  return transact(db, async ({ tx }) => {
    const product = await findNamed(tx, "products", principal, request.productId);
    const read = async (idOrNumber: string): Promise<ProductManifest> =>
      fromBinary(ProductManifestSchema, (await findRevision(tx, product, idOrNumber)).content);
    const before = await read(request.id);
    const after = request.to === "" ? await manifestOf(tx, product) : await read(request.to);
    return create(DiffRevisionResponseSchema, { changes: diffManifests(before, after) });
  });
}
