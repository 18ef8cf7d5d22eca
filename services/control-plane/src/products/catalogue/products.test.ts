import { expect, test } from "@jest/globals";
import { create } from "@bufbuild/protobuf";
import { FieldMaskSchema } from "@bufbuild/protobuf/wkt";
import { ApiServiceService, GatewayService, Product_State, ProductService } from "@bowline/contract/products";
import { newId } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { reasonOf } from "../../platform/in-process.ts";
import { transact } from "../../platform/transactions.ts";
import { catalogueInProcess } from "./in-process.ts";
import { markPublished } from "./index.ts";

async function start() {
  const { db } = await testDatabase();
  const started = await catalogueInProcess(db);
  const { catalogue, caller, as } = started;
  const services = as(ApiServiceService, "alpha");
  return {
    db,
    ...started,
    alpha: as(ProductService, "alpha"),
    services,
    revision: (who: string, product: string, revision = "") =>
      transact(db, (work) => catalogue.revisionForPublish(work, caller(who), product, revision)),
    /** An API service with one route and its backend. */
    service: async (name: string) => {
      const { id } = await services.createApiService({ apiService: { name } });
      await services.createBackend({ apiServiceId: id, backend: { spec: { name: "b", url: "http://b" } } });
      await services.createRoute({ apiServiceId: id, route: { spec: { name: "r", backends: [{ backend: "b" }] } } });
      return id;
    },
    /** A publish as a row, in this state. */
    publish: async (state: string, createdAt = new Date()) => {
      const { productId, organisationId, revisionId } = await transact(db, (work) =>
        catalogue.revisionForPublish(work, caller("alpha"), "p", ""),
      );
      const gateway = await transact(db, (work) => catalogue.gatewayForPublish(work, caller("alpha"), ""));
      let cluster = await db.selectFrom("clusters").select("id").executeTakeFirst();
      cluster ??= await db
        .insertInto("clusters")
        .values({ id: newId("cluster"), name: "local", runtime: "local" })
        .returning("id")
        .executeTakeFirstOrThrow();
      const id = newId("publish");
      await db
        .insertInto("product_publishes")
        .values({
          id,
          organisation_id: organisationId,
          product_id: productId,
          revision_id: revisionId,
          cluster_id: cluster.id,
          gateway_id: gateway.id,
          state,
          created_by: "test",
          created_at: createdAt,
          deployed_at: state === "DRAFT" ? null : createdAt,
        })
        .execute();
      return id;
    },
  };
}

const mask = (...paths: string[]) => create(FieldMaskSchema, { paths });

test("a product is created with API services by id or name, and answers ids in that order", async () => {
  const { alpha, service, violationsOf } = await start();
  const [b, a] = [await service("b"), await service("a")];
  const made = await alpha.createProduct({ product: { name: "p", displayName: "P", apiServiceIds: ["b", a] } });
  expect(made).toMatchObject({
    name: "p",
    state: Product_State.DRAFT,
    latestRevision: 0,
    apiServiceIds: [b, a],
    etag: "1",
  });
  expect(await alpha.getProduct({ id: "p" })).toEqual(made);
  expect((await alpha.listProducts({})).products).toEqual([made]);
  const turned = await alpha.updateProduct({ product: { id: "p", apiServiceIds: [a, b] } });
  expect(turned).toMatchObject({ apiServiceIds: [a, b], displayName: "P", etag: "2" });
  const wrong = alpha.createProduct({ product: { name: "q", apiServiceIds: ["a", "nothing", a] } });
  expect(await violationsOf(wrong)).toEqual(["product.api_service_ids[1]", "product.api_service_ids[2]"]);
  const none = await alpha.updateProduct({ product: { id: "p" }, updateMask: mask("api_service_ids") });
  expect(none.apiServiceIds).toEqual([]);
});

test("a product takes no API service of another organisation", async () => {
  const { service, as, violationsOf } = await start();
  const id = await service("a");
  const call = as(ProductService, "beta").createProduct({ product: { name: "p", apiServiceIds: [id] } });
  expect(await violationsOf(call)).toEqual(["product.api_service_ids[0]"]);
});

test("the same content gives the same revision; a change gives the next number", async () => {
  const { alpha, service, services, revision } = await start();
  await service("a");
  await alpha.createProduct({ product: { name: "p", apiServiceIds: ["a"] } });
  const first = await alpha.createRevision({ productId: "p" });
  expect(first).toMatchObject({ number: 1, content: { name: "p", apiServices: [{ name: "a" }] } });
  expect(await alpha.createRevision({ productId: "p" })).toEqual(first);
  expect(await revision("alpha", "p")).toMatchObject({ revisionId: first.id, number: 1, productName: "p" });
  await services.updateBackend({ apiServiceId: "a", backend: { id: "b", spec: { name: "b", url: "http://c" } } });
  expect((await revision("alpha", "p")).number).toBe(2);
  expect((await revision("alpha", "p", "1")).content.apiServices[0]?.backends[0]?.url).toBe("http://b");
  expect((await revision("alpha", "p", first.id)).number).toBe(1);
  expect((await alpha.getProduct({ id: "p" })).latestRevision).toBe(2);
  expect(await alpha.getRevision({ productId: "p", id: "1" })).toEqual(first);
});

test("revisions are listed newest first, without content", async () => {
  const { alpha, service } = await start();
  await service("a");
  await alpha.createProduct({ product: { name: "p", apiServiceIds: ["a"] } });
  for (const description of ["1", "2", "3"]) {
    await alpha.updateProduct({ product: { id: "p", description } });
    await alpha.createRevision({ productId: "p" });
  }
  const first = await alpha.listRevisions({ productId: "p", pageSize: 2, returnTotalSize: true });
  expect([first.totalSize, ...first.revisions.map(({ number, content }) => [number, content])]).toEqual([
    3,
    [3, undefined],
    [2, undefined],
  ]);
  const rest = await alpha.listRevisions({ productId: "p", pageSize: 2, pageToken: first.nextPageToken });
  expect([rest.nextPageToken, ...rest.revisions.map(({ number }) => number)]).toEqual(["", 1]);
});

test("a difference is told between two revisions, and between one and the product as it is now", async () => {
  const { alpha, service, services } = await start();
  await service("a");
  await alpha.createProduct({ product: { name: "p", apiServiceIds: ["a"] } });
  await alpha.createRevision({ productId: "p" });
  await services.createRoute({ apiServiceId: "a", route: { spec: { name: "s", backends: [{ backend: "b" }] } } });
  const now = await alpha.diffRevision({ productId: "p", id: "1" });
  expect(now.changes).toMatchObject([{ path: "api_services/a/routes/s", before: "" }]);
  expect(JSON.parse(now.changes[0]?.after ?? "")).toEqual({ name: "s", backends: [{ backend: "b" }] });
  expect((await alpha.getProduct({ id: "p" })).latestRevision).toBe(1);
  await alpha.createRevision({ productId: "p" });
  expect((await alpha.diffRevision({ productId: "p", id: "2", to: "1" })).changes).toMatchObject([{ after: "" }]);
  expect((await alpha.diffRevision({ productId: "p", id: "2" })).changes).toEqual([]);
});

test("a product without a route makes no revision and cannot be published", async () => {
  const { alpha, services, revision } = await start();
  await services.createApiService({ apiService: { name: "a" } });
  await alpha.createProduct({ product: { name: "p", apiServiceIds: ["a"] } });
  expect(await reasonOf(alpha.createRevision({ productId: "p" }))).toBe("PRODUCT_EMPTY");
  await expect(revision("alpha", "p")).rejects.toMatchObject({ reason: "PRODUCT_EMPTY" });
});

test("only the product's organisation, and who sees all, publishes it", async () => {
  const { alpha, service, revision, caller, as } = await start();
  await service("a");
  const { id } = await alpha.createProduct({ product: { name: "p", apiServiceIds: ["a"] } });
  await expect(revision("beta", id)).rejects.toMatchObject({ reason: "NOT_FOUND" });
  await expect(revision("alpha", "p", "7")).rejects.toMatchObject({ reason: "NOT_FOUND" });
  await expect(revision("alpha", "p", "99999999999")).rejects.toMatchObject({ reason: "NOT_FOUND" });
  const { organisationId } = caller("alpha").principal;
  expect(await revision("beta/admin", "p")).toMatchObject({ productId: id, organisationId });
  await as(ProductService, "beta").createProduct({ product: { name: "p" } });
  expect((await as(ProductService, "beta/admin").getProduct({ id: "p" })).id).not.toBe(id);
});

test("a product that is published says so, and stays so", async () => {
  const { alpha, db } = await start();
  const { id } = await alpha.createProduct({ product: { name: "p" } });
  for (let time = 0; time < 2; time += 1) await transact(db, (work) => markPublished(work, id));
  expect(await alpha.getProduct({ id })).toMatchObject({ state: Product_State.PUBLISHED, etag: "2" });
});

test("two publishes that need a revision at once make one", async () => {
  const { alpha, service, revision } = await start();
  await service("a");
  await alpha.createProduct({ product: { name: "p", apiServiceIds: ["a"] } });
  const all = await Promise.all([1, 2, 3, 4].map(() => revision("alpha", "p")));
  expect(new Set(all.map(({ revisionId }) => revisionId)).size).toBe(1);
});

test.each(["PENDING", "DISPATCHED", "APPLYING", "LIVE", "FAILED", "UNPUBLISHING"])(
  "a product with a %s publish is not deleted, nor is the gateway",
  async (state) => {
    const { alpha, as, service, publish } = await start();
    await service("a");
    await alpha.createProduct({ product: { name: "p", apiServiceIds: ["a"] } });
    await publish(state);
    expect(await reasonOf(alpha.deleteProduct({ id: "p" }))).toBe("PRODUCT_PUBLISHED");
    expect(await reasonOf(as(GatewayService, "alpha").deleteGateway({ id: "default" }))).toBe("GATEWAY_IN_USE");
  },
);

test("a product whose newest publish is removed is deleted with its history; its API services stay", async () => {
  const { alpha, as, service, publish, services } = await start();
  await service("a");
  await alpha.createProduct({ product: { name: "p", apiServiceIds: ["a"] } });
  await publish("FAILED", new Date(Date.now() - 2_000));
  await publish("UNPUBLISHED", new Date(Date.now() - 1_000));
  await publish("DRAFT");
  await alpha.deleteProduct({ id: "p" });
  expect(await reasonOf(alpha.getProduct({ id: "p" }))).toBe("NOT_FOUND");
  expect(await reasonOf(as(GatewayService, "alpha").deleteGateway({ id: "default" }))).toBe("ok");
  expect((await services.listApiServices({})).apiServices).toHaveLength(1);
});

test("a stale ETag, a name that is taken and a missing name are refused", async () => {
  const { alpha, violationsOf } = await start();
  await alpha.createProduct({ product: { name: "p" } });
  await alpha.createProduct({ product: { name: "q" } });
  expect(await reasonOf(alpha.updateProduct({ product: { id: "p", displayName: "x", etag: "2" } }))).toBe("STALE_ETAG");
  expect(await reasonOf(alpha.updateProduct({ product: { id: "p", name: "q" } }))).toBe("ALREADY_EXISTS");
  expect(await reasonOf(alpha.createProduct({ product: { name: "p" } }))).toBe("ALREADY_EXISTS");
  expect(await violationsOf(alpha.createProduct({ product: {} }))).toEqual(["product.name"]);
  expect(await violationsOf(alpha.updateProduct({ product: { id: "p", description: "\0" } }))).toEqual([
    "product.description",
  ]);
});
