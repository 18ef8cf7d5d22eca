import { expect, test } from "@jest/globals";
import { create } from "@bufbuild/protobuf";
import { FieldMaskSchema } from "@bufbuild/protobuf/wkt";
import { ApiServiceService, ProductService } from "@bowline/contract/products";
import { testDatabase } from "@bowline/testing";
import { reasonOf } from "../../platform/in-process.ts";
import { catalogueInProcess } from "./in-process.ts";

async function start() {
  const { db } = await testDatabase();
  const started = await catalogueInProcess(db);
  return { db, ...started, alpha: started.as(ApiServiceService, "alpha"), beta: started.as(ApiServiceService, "beta") };
}

const mask = (...paths: string[]) => create(FieldMaskSchema, { paths });

async function withParts() {
  const started = await start();
  const { alpha } = started;
  const service = await alpha.createApiService({ apiService: { name: "hello" } });
  const backend = await alpha.createBackend({
    apiServiceId: "hello",
    backend: { spec: { name: "b", url: "http://b.example" } },
  });
  const route = await alpha.createRoute({
    apiServiceId: service.id,
    route: { spec: { name: "r", backends: [{ backend: "b" }] } },
  });
  return { ...started, service, backend, route };
}

test("an API service is created, read by id and name, changed and deleted, each with an audit event", async () => {
  const { alpha, db } = await start();
  const made = await alpha.createApiService({ apiService: { name: "hello", displayName: "Hello" } });
  expect(made).toMatchObject({ name: "hello", displayName: "Hello", etag: "1" });
  expect(made.id).toMatch(/^apisvc_/);
  expect(await alpha.getApiService({ id: made.id })).toEqual(made);
  expect(await alpha.getApiService({ id: "hello" })).toEqual(made);
  const changed = await alpha.updateApiService({ apiService: { id: made.id, description: "x", etag: made.etag } });
  expect(changed).toMatchObject({ name: "hello", displayName: "Hello", description: "x", etag: "2" });
  const cleared = await alpha.updateApiService({ apiService: { id: "hello" }, updateMask: mask("display_name") });
  expect(cleared).toMatchObject({ displayName: "", description: "x" });
  await alpha.deleteApiService({ id: "hello", etag: '"3"' });
  expect(await reasonOf(alpha.getApiService({ id: made.id }))).toBe("NOT_FOUND");
  const audits = await db.selectFrom("audit_events").select(["action", "before", "after"]).orderBy("at").execute();
  expect(audits.map(({ action, before, after }) => [action, before !== null, after !== null])).toEqual([
    ["api-service.create", false, true],
    ["api-service.update", true, true],
    ["api-service.update", true, true],
    ["api-service.delete", true, false],
  ]);
});

test("an update or deletion with an older ETag is refused and changes nothing", async () => {
  const { alpha, route } = await withParts();
  await alpha.updateApiService({ apiService: { id: "hello", displayName: "x" } });
  const stale = alpha.updateApiService({ apiService: { id: "hello", displayName: "y", etag: "1" } });
  expect(await reasonOf(stale)).toBe("STALE_ETAG");
  expect(await reasonOf(alpha.deleteRoute({ apiServiceId: "hello", id: route.id, etag: "7" }))).toBe("STALE_ETAG");
  expect(await alpha.getApiService({ id: "hello" })).toMatchObject({ displayName: "x", etag: "2" });
});

test("a name is unique in its scope, and free in another", async () => {
  const { alpha, beta } = await withParts();
  const apiService = { name: "hello" };
  expect(await reasonOf(alpha.createApiService({ apiService }))).toBe("ALREADY_EXISTS");
  expect(await reasonOf(beta.createApiService({ apiService }))).toBe("ok");
  await alpha.createApiService({ apiService: { name: "other" } });
  expect(await reasonOf(alpha.updateApiService({ apiService: { id: "other", name: "hello" } }))).toBe("ALREADY_EXISTS");
  const backend = { spec: { name: "b", url: "http://b" } };
  expect(await reasonOf(alpha.createBackend({ apiServiceId: "hello", backend }))).toBe("ALREADY_EXISTS");
  expect(await reasonOf(alpha.createBackend({ apiServiceId: "other", backend }))).toBe("ok");
});

test("another organisation's rows are not found, whatever is asked of them", async () => {
  const { beta, as, service, route, backend } = await withParts();
  const apiServiceId = service.id;
  const calls = [
    beta.getApiService({ id: service.id }),
    beta.updateApiService({ apiService: { id: service.id, displayName: "x" } }),
    beta.deleteApiService({ id: service.id }),
    beta.listRoutes({ apiServiceId }),
    beta.getRoute({ apiServiceId, id: route.id }),
    beta.createRoute({ apiServiceId, route: { spec: { name: "x", backends: [{ backend: "b" }] } } }),
    beta.updateRoute({ apiServiceId, route: { id: route.id } }),
    beta.deleteRoute({ apiServiceId, id: route.id }),
    beta.listBackends({ apiServiceId }),
    beta.getBackend({ apiServiceId, id: backend.id }),
    beta.deleteBackend({ apiServiceId, id: backend.id }),
  ];
  for (const call of calls) expect(await reasonOf(call)).toBe("NOT_FOUND");
  await beta.createApiService({ apiService: { name: "mine" } });
  expect(await reasonOf(beta.getRoute({ apiServiceId: "mine", id: route.id }))).toBe("NOT_FOUND");
  expect((await beta.listApiServices({})).apiServices.map(({ name }) => name)).toEqual(["mine"]);
  const admin = as(ApiServiceService, "beta/admin");
  expect((await admin.listApiServices({})).apiServices.map(({ name }) => name)).toEqual(["hello", "mine"]);
  expect((await admin.getApiService({ id: "hello" })).id).toBe(service.id);
});

test("a viewer reads and changes nothing; a customer does not even read", async () => {
  const { as } = await withParts();
  const viewer = as(ApiServiceService, "alpha/viewer");
  expect((await viewer.listRoutes({ apiServiceId: "hello" })).routes).toHaveLength(1);
  expect(await reasonOf(viewer.deleteApiService({ id: "hello" }))).toBe("PERMISSION_DENIED");
  expect(await reasonOf(as(ApiServiceService, "alpha/customer").listApiServices({}))).toBe("PERMISSION_DENIED");
});

test("lists are in order of name, page by page, and count on request", async () => {
  const { alpha, beta } = await start();
  for (const name of ["c", "a", "e", "b", "d"]) await alpha.createApiService({ apiService: { name } });
  await beta.createApiService({ apiService: { name: "other" } });
  const names: string[] = [];
  let pageToken = "";
  do {
    const page = await alpha.listApiServices({ pageSize: 2, pageToken, returnTotalSize: true });
    expect(page.totalSize).toBe(5);
    names.push(...page.apiServices.map(({ name }) => name));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  expect(names).toEqual(["a", "b", "c", "d", "e"]);
  const { nextPageToken } = await alpha.listApiServices({ pageSize: 1 });
  expect(await reasonOf(alpha.listRoutes({ apiServiceId: "a", pageToken: nextPageToken }))).toBe("PAGE_TOKEN_INVALID");
  expect(await reasonOf(alpha.listApiServices({ pageToken: "x" }))).toBe("PAGE_TOKEN_INVALID");
  expect((await alpha.listApiServices({})).totalSize).toBeUndefined();
});

test("a route must refer to backends that are there, when it is made and when it is changed", async () => {
  const { alpha, route, violationsOf } = await withParts();
  const spec = { name: "x", backends: [{ backend: "nowhere" }] };
  expect(await violationsOf(alpha.createRoute({ apiServiceId: "hello", route: { spec } }))).toEqual([
    "route.spec.backends[0].backend",
  ]);
  expect(await violationsOf(alpha.createRoute({ apiServiceId: "hello", route: {} }))).toEqual(["route.spec"]);
  const update = alpha.updateRoute({ apiServiceId: "hello", route: { id: route.id, spec } });
  expect(await violationsOf(update)).toEqual(["route.spec.backends[0].backend"]);
  const bad = { spec: { name: "x", url: "ftp://x" } };
  expect(await violationsOf(alpha.createBackend({ apiServiceId: "hello", backend: bad }))).toEqual([
    "backend.spec.url",
  ]);
});

test("a part of a route changes by mask, and the rest stays", async () => {
  const { alpha, route } = await withParts();
  const changed = await alpha.updateRoute({
    apiServiceId: "hello",
    route: { id: "r", spec: { name: "r", hostnames: ["a.example"] }, etag: route.etag },
    updateMask: mask("spec.hostnames"),
  });
  expect(changed).toMatchObject({ id: route.id, etag: "2", createdAt: route.createdAt });
  expect(changed.spec).toMatchObject({ name: "r", hostnames: ["a.example"], backends: [{ backend: "b" }] });
});

test("a backend that a route sends or mirrors to is neither deleted nor renamed", async () => {
  const { alpha, backend } = await withParts();
  const apiServiceId = "hello";
  const rename = { id: backend.id, spec: { name: "c", url: "http://b.example" } };
  expect(await reasonOf(alpha.deleteBackend({ apiServiceId, id: "b" }))).toBe("BACKEND_IN_USE");
  expect(await reasonOf(alpha.updateBackend({ apiServiceId, backend: rename }))).toBe("BACKEND_IN_USE");
  await alpha.createBackend({ apiServiceId, backend: { spec: { name: "m", url: "http://m" } } });
  await alpha.updateRoute({
    apiServiceId,
    route: {
      id: "r",
      spec: {
        name: "r",
        backends: [{ backend: "b" }],
        filters: [{ kind: { case: "mirror", value: { backend: "m" } } }],
      },
    },
  });
  expect(await reasonOf(alpha.deleteBackend({ apiServiceId, id: "m" }))).toBe("BACKEND_IN_USE");
  await alpha.deleteRoute({ apiServiceId, id: "r" });
  expect((await alpha.updateBackend({ apiServiceId, backend: rename })).spec?.name).toBe("c");
  await alpha.deleteBackend({ apiServiceId, id: "c" });
  expect((await alpha.listBackends({ apiServiceId })).backends.map((each) => each.spec?.name)).toEqual(["m"]);
});

test("an API service that a product has is not deleted", async () => {
  const { alpha, as } = await withParts();
  const products = as(ProductService, "alpha");
  await products.createProduct({ product: { name: "p", apiServiceIds: ["hello"] } });
  expect(await reasonOf(alpha.deleteApiService({ id: "hello" }))).toBe("API_SERVICE_IN_USE");
  await products.deleteProduct({ id: "p" });
  expect(await reasonOf(alpha.deleteApiService({ id: "hello" }))).toBe("ok");
});

test("a key makes creation safe to repeat", async () => {
  const { alpha, db } = await start();
  const first = await alpha.createApiService({ apiService: { name: "a" }, requestId: "k" });
  expect(await alpha.createApiService({ apiService: { name: "a" }, requestId: "k" })).toEqual(first);
  expect(await db.selectFrom("api_services").select("id").execute()).toHaveLength(1);
});

test("bad input is refused with a reason and never reaches the database", async () => {
  const { alpha, violationsOf } = await withParts();
  expect(await violationsOf(alpha.createApiService({ apiService: {} }))).toEqual(["api_service.name"]);
  expect(await violationsOf(alpha.createApiService({}))).toEqual(["api_service"]);
  expect(await violationsOf(alpha.createApiService({ apiService: { name: "A b" } }))).toEqual(["api_service.name"]);
  for (const displayName of ["a\0b", "a\nb", "\u001b[31m"])
    expect(await violationsOf(alpha.createApiService({ apiService: { name: "x", displayName } }))).toEqual([
      "api_service.display_name",
    ]);
  for (const id of ["\0", "' OR 1=1", "apisvc_x", "../x", "é"]) {
    expect(await reasonOf(alpha.getApiService({ id }))).toBe("NOT_FOUND");
    expect(await reasonOf(alpha.getRoute({ apiServiceId: "hello", id }))).toBe("NOT_FOUND");
  }
  expect(await reasonOf(alpha.getApiService({ id: "" }))).toBe("INVALID_ARGUMENT");
  const unknown = alpha.updateApiService({ apiService: { id: "hello" }, updateMask: mask("nothing") });
  expect(await violationsOf(unknown)).toEqual(["update_mask"]);
  const spec = { name: "x", backends: [{ backend: "b" }], matches: [{ headers: [{ name: "a", value: "\0" }] }] };
  expect(await violationsOf(alpha.createRoute({ apiServiceId: "hello", route: { spec } }))).toEqual([
    "route.spec.matches[0].headers[0].value",
  ]);
});

test("two that use and delete a backend at once never leave a route without it", async () => {
  const { alpha } = await withParts();
  for (let round = 0; round < 5; round += 1) {
    const name = `n${round}`;
    await alpha.createBackend({ apiServiceId: "hello", backend: { spec: { name, url: "http://n" } } });
    const route = { spec: { name: `r${round}`, backends: [{ backend: name }] } };
    const [used, deleted] = await Promise.all([
      reasonOf(alpha.createRoute({ apiServiceId: "hello", route })),
      reasonOf(alpha.deleteBackend({ apiServiceId: "hello", id: name })),
    ]);
    expect([`ok BACKEND_IN_USE`, `INVALID_ARGUMENT ok`]).toContain(`${used} ${deleted}`);
  }
});
