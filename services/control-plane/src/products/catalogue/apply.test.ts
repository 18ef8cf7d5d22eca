import { readFile } from "node:fs/promises";
import { fromJson, type JsonObject, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { PathMatch_Type } from "@bowline/contract/deployments";
import {
  type ApiServiceManifestSchema,
  Change_Kind,
  ProductManifestSchema,
  ProductService,
} from "@bowline/contract/products";
import { reasonOf } from "../../platform/in-process.ts";
import { testDatabase } from "@bowline/testing";
import { parse } from "yaml";
import { catalogueInProcess } from "./in-process.ts";

async function start() {
  const { db } = await testDatabase();
  return { db, ...(await catalogueInProcess(db)) };
}

type Manifest = MessageInitShape<typeof ProductManifestSchema>;

const prefix = (value: string) => ({ path: { type: PathMatch_Type.PREFIX, value } });

function hello(): Manifest & { apiServices: MessageInitShape<typeof ApiServiceManifestSchema>[] } {
  return {
    name: "hello",
    displayName: "Hello",
    apiServices: [
      {
        name: "hello",
        routes: [
          { name: "time", matches: [prefix("/hello/time")], backends: [{ backend: "hello" }] },
          { name: "hello", matches: [prefix("/hello")], backends: [{ backend: "hello" }] },
        ],
        backends: [{ name: "hello", url: "http://127.0.0.1:9101" }],
      },
    ],
  };
}

test("applying a manifest makes the product, its API services and revision 1; again it changes nothing", async () => {
  const { as, db } = await start();
  const products = as(ProductService, "alpha");
  const first = await products.applyProduct({ manifest: hello() });
  expect(first.product).toMatchObject({ name: "hello", displayName: "Hello", latestRevision: 1 });
  expect(first.revision).toMatchObject({ number: 1, productId: first.product?.id });
  expect(first.changes.map(({ kind, path }) => [kind, path])).toEqual([
    [Change_Kind.ADDED, "product"],
    [Change_Kind.ADDED, "api_services/hello"],
    [Change_Kind.ADDED, "api_services/hello/routes/hello"],
    [Change_Kind.ADDED, "api_services/hello/routes/time"],
    [Change_Kind.ADDED, "api_services/hello/backends/hello"],
  ]);
  const again = await products.applyProduct({ manifest: hello() });
  expect(again.changes).toEqual([]);
  expect(again.revision).toEqual(first.revision);
  expect(again.product).toEqual(first.product);
  const audits = await db.selectFrom("audit_events").select("action").execute();
  expect(audits).toEqual([{ action: "product.apply" }]);
});

test("the order of things in a file makes no difference", async () => {
  const { as } = await start();
  const products = as(ProductService, "alpha");
  const first = await products.applyProduct({ manifest: hello() });
  const turned = hello();
  turned.apiServices[0]!.routes!.reverse();
  const second = await products.applyProduct({ manifest: turned });
  expect([second.changes, second.revision?.number]).toEqual([[], first.revision?.number]);
});

test("a route that stays keeps its id; one that goes is removed; an older content is a new revision", async () => {
  const { as, db } = await start();
  const products = as(ProductService, "alpha");
  await products.applyProduct({ manifest: hello() });
  const before = await db.selectFrom("routes").select(["id", "name", "created_at"]).execute();
  const changed = hello();
  changed.apiServices[0]!.routes = [
    { name: "hello", matches: [prefix("/hi")], backends: [{ backend: "hello" }] },
    { name: "new", matches: [prefix("/new")], backends: [{ backend: "hello" }] },
  ];
  const second = await products.applyProduct({ manifest: changed });
  expect(second.revision?.number).toBe(2);
  expect(second.changes.map(({ kind, path }) => [kind, path])).toEqual([
    [Change_Kind.CHANGED, "api_services/hello/routes/hello"],
    [Change_Kind.ADDED, "api_services/hello/routes/new"],
    [Change_Kind.REMOVED, "api_services/hello/routes/time"],
  ]);
  const after = await db.selectFrom("routes").select(["id", "name", "created_at", "version"]).orderBy("name").execute();
  const kept = before.find((row) => row.name === "hello");
  expect(after.map((row) => row.name)).toEqual(["hello", "new"]);
  expect(after[0]).toEqual({ ...kept, version: 2 });
  const back = await products.applyProduct({ manifest: hello() });
  expect(back.revision?.number).toBe(3);
});

test("a dry run tells what would change and changes nothing", async () => {
  const { as, db } = await start();
  const products = as(ProductService, "alpha");
  const dry = await products.applyProduct({ manifest: hello(), dryRun: true });
  expect([dry.product, dry.revision, dry.changes.length]).toEqual([undefined, undefined, 5]);
  for (const table of ["products", "api_services", "product_revisions", "audit_events"] as const)
    expect(await db.selectFrom(table).select("id").execute()).toEqual([]);
  await products.applyProduct({ manifest: hello() });
  const changed = { ...hello(), displayName: "Hi" };
  const second = await products.applyProduct({ manifest: changed, dryRun: true });
  expect(second.changes.map((change) => change.path)).toEqual(["display_name"]);
  expect(second.product?.displayName).toBe("Hello");
  expect(second.revision?.number).toBe(1);
});

test("an API service that the manifest drops is deleted unless another product has it", async () => {
  const { as, db } = await start();
  const products = as(ProductService, "alpha");
  const two = hello();
  two.apiServices.push({ name: "extra", backends: [{ name: "b", url: "https://example.com" }] });
  await products.applyProduct({ manifest: two });
  await products.createProduct({ product: { name: "other", apiServiceIds: ["extra"] } });
  await products.applyProduct({ manifest: hello() });
  const names = async () =>
    (await db.selectFrom("api_services").select("name").orderBy("name").execute()).map((row) => row.name);
  expect(await names()).toEqual(["extra", "hello"]);
  await products.applyProduct({ manifest: two });
  await products.deleteProduct({ id: "other" });
  const dropped = await products.applyProduct({ manifest: hello() });
  expect(dropped.changes.map(({ kind, path }) => [kind, path])).toEqual([
    [Change_Kind.REMOVED, "api_services/extra"],
    [Change_Kind.REMOVED, "api_services/extra/backends/b"],
  ]);
  expect(await names()).toEqual(["hello"]);
});

test("what is applied to a shared API service changes it for the other products, and says so", async () => {
  const { as } = await start();
  const products = as(ProductService, "alpha");
  await products.applyProduct({ manifest: hello() });
  const other = { ...hello(), name: "other" };
  const attached = await products.applyProduct({ manifest: other });
  expect(attached.changes.map(({ kind, path }) => [kind, path])).toEqual([
    [Change_Kind.ADDED, "product"],
    [Change_Kind.ADDED, "api_services/hello"],
  ]);
  other.apiServices[0]!.backends![0]!.url = "http://127.0.0.1:9102";
  const changed = await products.applyProduct({ manifest: other });
  expect(changed.changes.map((change) => change.path)).toEqual([
    "api_services/hello/backends/hello",
    "products/hello/api_services/hello",
  ]);
  const diff = await products.diffRevision({ productId: "hello", id: "1" });
  expect(diff.changes.map((change) => change.path)).toEqual(["api_services/hello/backends/hello"]);
});

test("a wrong manifest is refused whole, with the path of each field", async () => {
  const { as, db, violationsOf } = await start();
  const wrong = hello();
  wrong.apiServices[0]!.routes![0]!.backends = [{ backend: "nowhere" }];
  wrong.apiServices[0]!.routes![1]!.matches = [prefix("hello")];
  const call = as(ProductService, "alpha").applyProduct({ manifest: wrong });
  expect(await violationsOf(call)).toEqual([
    "manifest.api_services[0].routes[0].backends[0].backend",
    "manifest.api_services[0].routes[1].matches[0].path.value",
  ]);
  expect(await db.selectFrom("products").select("id").execute()).toEqual([]);
});

test("two that apply the same product at once make one", async () => {
  const { as, db } = await start();
  const products = as(ProductService, "alpha");
  const all = await Promise.all([1, 2, 3, 4].map(() => products.applyProduct({ manifest: hello() })));
  expect(new Set(all.map((answer) => answer.revision?.id)).size).toBe(1);
  expect(await db.selectFrom("products").select("id").execute()).toHaveLength(1);
  expect(await db.selectFrom("routes").select("id").execute()).toHaveLength(2);
});

test("an idempotency key answers the same once more and refuses another body", async () => {
  const { as, db } = await start();
  const products = as(ProductService, "alpha");
  const first = await products.applyProduct({ manifest: hello(), requestId: "k" });
  expect(await products.applyProduct({ manifest: hello(), requestId: "k" })).toEqual(first);
  const other = products.applyProduct({ manifest: { ...hello(), displayName: "x" }, requestId: "k" });
  expect(await reasonOf(other)).toBe("IDEMPOTENCY_CONFLICT");
  expect(await db.selectFrom("product_revisions").select("id").execute()).toHaveLength(1);
});

test("organisations have their own products under one name", async () => {
  const { as } = await start();
  const alpha = await as(ProductService, "alpha").applyProduct({ manifest: hello() });
  const beta = await as(ProductService, "beta").applyProduct({ manifest: { ...hello(), displayName: "Beta" } });
  expect(beta.product?.id).not.toBe(alpha.product?.id);
  expect(beta.revision?.number).toBe(1);
  const get = as(ProductService, "beta").getProduct({ id: alpha.product?.id ?? "" });
  expect(await reasonOf(get)).toBe("NOT_FOUND");
});

test("two products that share a new API service may be applied at once", async () => {
  const { as, db } = await start();
  const products = as(ProductService, "alpha");
  const names = ["a", "b", "c", "d"];
  await Promise.all(names.map((name) => products.applyProduct({ manifest: { ...hello(), name } })));
  expect(await db.selectFrom("api_services").select("id").execute()).toHaveLength(1);
  expect(await db.selectFrom("product_api_services").select("product_id").execute()).toHaveLength(names.length);
});

test("the hello example is a manifest that can be applied", async () => {
  const { as } = await start();
  const file = await readFile(new URL("../../../../../examples/hello/product.yaml", import.meta.url), "utf8");
  const { apiVersion: _, kind: __, ...json } = parse(file) as JsonObject;
  const manifest = fromJson(ProductManifestSchema, json);
  const { revision } = await as(ProductService, "alpha").applyProduct({ manifest });
  expect(revision).toMatchObject({ number: 1, content: { name: "hello" } });
});
