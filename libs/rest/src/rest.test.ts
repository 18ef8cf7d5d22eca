import { afterEach, expect, test } from "@jest/globals";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { create } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ConnectRouter, ServiceImpl } from "@connectrpc/connect";
import { Cluster_State, ClusterSchema, ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import type {
  CreateClusterRequest,
  CreateRegistrationTokenRequest,
  DeleteClusterRequest,
  UpdateClusterRequest,
} from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import type { ListCommandsRequest } from "@bowline/contract/commands";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "@bowline/contract/errors";
import { ProductPublish_State, ProductPublishService, ProductService } from "@bowline/contract/products";
import type { ApplyProductRequest } from "@bowline/contract/products";
import { startScripted } from "./scripted-server.ts";
import type { ScriptedServer } from "./scripted-server.ts";

const run = promisify(execFile);
const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

async function serve(...args: Parameters<typeof startScripted>): Promise<ScriptedServer> {
  const server = await startScripted(...args);
  ends.push(() => server.close());
  return server;
}

type Json = Record<string, unknown>;

async function call(
  server: ScriptedServer,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; headers: Headers; body: Json }> {
  const answer = await fetch(server.url + path, {
    method,
    headers: { ...(body !== undefined && { "content-type": "application/json" }), ...headers },
    body: body === undefined || typeof body === "string" ? body : JSON.stringify(body),
  });
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, body: text === "" ? {} : (JSON.parse(text) as Json) };
}

const hello: MessageInitShape<typeof ClusterSchema> = {
  id: "cluster_01k",
  name: "hello",
  state: Cluster_State.ONLINE,
  etag: "3",
  createdAt: timestampFromMs(0),
};

function clusters(handlers: Partial<ServiceImpl<typeof ClusterService>>) {
  return (router: ConnectRouter): void => void router.service(ClusterService, handlers);
}

test("a resource is answered as proto3 JSON without an envelope, with its ETag", async () => {
  const server = await serve(clusters({ getCluster: (request: { id: string }) => ({ ...hello, name: request.id }) }));
  const got = await call(server, "GET", "/v1/operator/clusters/hello", undefined, { "x-request-id": "mine-1" });
  expect(got.status).toBe(200);
  expect(got.body).toMatchObject({
    id: "cluster_01k",
    name: "hello",
    state: "ONLINE",
    agentsOnline: 0,
    capabilities: [],
    createdAt: "1970-01-01T00:00:00Z",
  });
  expect(got.body).not.toHaveProperty("updatedAt");
  expect(Object.fromEntries(got.headers)).toMatchObject({
    etag: '"3"',
    "x-request-id": "mine-1",
    "cache-control": "no-store",
    "content-type": "application/json",
  });
});

test("an additional binding leads to the same method", async () => {
  const server = await serve(clusters({ getCluster: (request: { id: string }) => ({ id: request.id }) }));
  expect((await call(server, "GET", "/v1/provider/clusters/a%20b%2Fc%3Ad")).body["id"]).toBe("a b/c:d");
});

test("authorization and other headers reach the handler; those of the connection and the body do not", async () => {
  const seen: Headers[] = [];
  const server = await serve(
    clusters({
      getCluster(_: unknown, context: { requestHeader: Headers }) {
        seen.push(context.requestHeader);
        return hello;
      },
    }),
  );
  await call(server, "GET", "/v1/operator/clusters/a", undefined, {
    authorization: "Bearer x",
    traceparent: "00-1",
    "content-type": "application/json",
    "x-request-id": "bad id with spaces",
    "connect-timeout-ms": "1",
  });
  expect(seen[0]?.get("authorization")).toBe("Bearer x");
  expect(seen[0]?.get("traceparent")).toBe("00-1");
  expect(seen[0]?.get("x-request-id")).toMatch(/^req_/);
  expect(seen[0]?.get("connect-timeout-ms")).not.toBe("1");
  expect(seen[0]?.get("content-type")).not.toBe("application/json");
  expect(seen[0]?.get("host")).toBe(new URL(server.url).host);
});

test("success has the status of the contract: 201, 202, and the one that the body decides", async () => {
  let state: ProductPublish_State = ProductPublish_State.PENDING;
  const server = await serve((router) => {
    router.service(ClusterService, { createCluster: () => hello, deleteCluster: () => ({}) });
    router.service(ProductPublishService, { createProductPublish: () => ({ state }) });
  });
  expect((await call(server, "POST", "/v1/operator/clusters", { name: "a" })).status).toBe(201);
  expect((await call(server, "POST", "/v1/provider/product-publishes", {})).status).toBe(202);
  state = ProductPublish_State.DRAFT;
  expect((await call(server, "POST", "/v1/provider/product-publishes", {})).status).toBe(201);
  expect(await call(server, "DELETE", "/v1/operator/clusters/a")).toMatchObject({ status: 200, body: {} });
});

test("a body that is a field, with an idempotency key and both spellings of names", async () => {
  const seen: CreateClusterRequest[] = [];
  const server = await serve(
    clusters({
      createCluster(request: CreateClusterRequest) {
        seen.push(request);
        return hello;
      },
    }),
  );
  const body = {
    name: "eu",
    displayName: "Europe",
    cloud_provider: "x",
    labels: { a: "b" },
    policy: { driftRepair: 2 },
  };
  await call(server, "POST", "/v1/operator/clusters", body, { "idempotency-key": "key-1" });
  expect(seen[0]).toMatchObject({
    requestId: "key-1",
    cluster: { name: "eu", displayName: "Europe", cloudProvider: "x", labels: { a: "b" }, policy: { driftRepair: 2 } },
  });
});

test("PATCH without a mask changes the fields that the body has; the path says which, If-Match guards", async () => {
  const seen: UpdateClusterRequest[] = [];
  const server = await serve(
    clusters({
      updateCluster(request: UpdateClusterRequest) {
        seen.push(request);
        return hello;
      },
    }),
  );
  const path = "/v1/operator/clusters/hello";
  const body = { id: "cluster_other", display_name: null, labels: { a: "b" }, etag: "2", isActive: false };
  await call(server, "PATCH", path, body, { "if-match": 'W/"7"' });
  expect(seen[0]?.updateMask?.paths).toEqual(["display_name", "labels", "is_active"]);
  expect(seen[0]?.cluster).toMatchObject({
    id: "hello",
    displayName: "",
    labels: { a: "b" },
    etag: "7",
    isActive: false,
  });

  await call(server, "PATCH", `${path}?update_mask=display_name,policy.allow_privileged`, {});
  expect(seen[1]?.updateMask?.paths).toEqual(["display_name", "policy.allow_privileged"]);
  expect(seen[1]?.cluster?.id).toBe("hello");
  await call(server, "PATCH", `${path}?updateMask=displayName`, {}, { "if-match": "*" });
  expect(seen[2]?.updateMask?.paths).toEqual(["display_name"]);
  expect(seen[2]?.cluster?.etag).toBe("");
  await call(server, "PATCH", path, {
    policy: { allow_privileged: true },
    labels: {},
    createdAt: "2026-01-01T00:00:00Z",
  });
  expect(seen[3]?.updateMask?.paths).toEqual(["policy.allow_privileged", "labels", "created_at"]);
  await call(server, "PATCH", path, { policy: null });
  expect(seen[4]?.updateMask?.paths).toEqual(["policy"]);
});

test("query parameters are fields: repeated, enums by name or number, booleans, both spellings, durations", async () => {
  const lists: ListCommandsRequest[] = [];
  const deletes: DeleteClusterRequest[] = [];
  const tokens: CreateRegistrationTokenRequest[] = [];
  const server = await serve((router) => {
    router.service(CommandService, {
      listCommands(request) {
        lists.push(request);
        return {};
      },
    });
    router.service(ClusterService, {
      deleteCluster(request) {
        deletes.push(request);
        return {};
      },
    });
    router.service(RegistrationTokenService, {
      createRegistrationToken(request) {
        tokens.push(request);
        return {};
      },
    });
  });
  const query = "states=READY&states=7&page_size=10&clusterId=a+b%26c&return_total_size=true";
  expect((await call(server, "GET", `/v1/operator/commands?${query}`)).body).toMatchObject({ commands: [] });
  expect(lists[0]).toMatchObject({ states: [2, 7], pageSize: 10, clusterId: "a b&c", returnTotalSize: true });
  await call(server, "DELETE", "/v1/operator/clusters/a?cascade=true", undefined, { "if-match": '"4"' });
  expect(deletes[0]).toMatchObject({ id: "a", cascade: true, etag: "4" });
  const created = await call(server, "POST", "/v1/operator/clusters/a/registration-tokens?ttl=90s", { max_uses: 2 });
  expect(created.status).toBe(201);
  expect(tokens[0]).toMatchObject({ clusterId: "a", ttl: { seconds: 90n }, maxUses: 2 });
});

test("PUT sends the manifest as body and its name in the path; POST sends the whole request", async () => {
  const seen: ApplyProductRequest[] = [];
  const server = await serve((router) => {
    router.service(ProductService, {
      applyProduct(request) {
        seen.push(request);
        return {};
      },
    });
  });
  await call(server, "PUT", "/v1/provider/products/hello?dry_run=true", { displayName: "Hello" });
  await call(server, "POST", "/v1/provider/products:apply", { manifest: { name: "hi" }, dryRun: true });
  expect(seen[0]).toMatchObject({ manifest: { name: "hello", displayName: "Hello" }, dryRun: true });
  expect(seen[1]).toMatchObject({ manifest: { name: "hi" }, dryRun: true });
});

test("HEAD answers as GET without a body; If-None-Match with the same etag answers 304", async () => {
  const server = await serve(clusters({ getCluster: () => hello }));
  const head = await call(server, "HEAD", "/v1/operator/clusters/a");
  expect([head.status, head.headers.get("etag"), head.body]).toEqual([200, '"3"', {}]);
  expect((await call(server, "GET", "/v1/operator/clusters/a", undefined, { "if-none-match": '"3"' })).status).toBe(
    304,
  );
});

test("a path that nothing has is left to the caller; a known one with another method is 405 and says which", async () => {
  const server = await serve(clusters({}));
  for (const path of ["/", "/v1/operator/nothing", "/v1/operator/clusters/", "/v1/operator/clusters/a:nothing", "//"]) {
    expect(await call(server, "GET", path)).toMatchObject({ status: 404, body: { reason: "UNKNOWN_METHOD" } });
  }
  const wrong = await call(server, "PUT", "/v1/operator/clusters/a", {});
  expect(wrong).toMatchObject({ status: 405, body: { reason: "METHOD_NOT_ALLOWED" } });
  expect(wrong.headers.get("allow")).toBe("DELETE, GET, HEAD, OPTIONS, PATCH");
  const options = await call(server, "OPTIONS", "/v1/operator/clusters/a:grant");
  expect([options.status, options.headers.get("allow")]).toEqual([204, "OPTIONS, POST"]);
});

test("a handler's failure keeps code, message and details, and shows reason and fields beside them", async () => {
  const server = await serve(
    clusters({
      createCluster() {
        throw new ConnectError("name is taken", Code.AlreadyExists, { "x-request-id": "r" }, [
          { desc: ErrorInfoSchema, value: { reason: "ALREADY_EXISTS", domain: "bowline", metadata: { name: "a" } } },
          { desc: BadRequestSchema, value: { fieldViolations: [{ field: "cluster.name", description: "is taken" }] } },
        ]);
      },
    }),
  );
  const failed = await call(server, "POST", "/v1/operator/clusters", { name: "a" }, { "x-request-id": "mine" });
  expect(failed.status).toBe(409);
  expect(failed.body).toEqual({
    code: "already_exists",
    message: "name is taken",
    reason: "ALREADY_EXISTS",
    fieldViolations: [{ field: "cluster.name", description: "is taken" }],
    details: [
      {
        type: "google.rpc.ErrorInfo",
        value: expect.stringMatching(/^[A-Za-z0-9+/]+$/),
        debug: { reason: "ALREADY_EXISTS", domain: "bowline", metadata: { name: "a" } },
      },
      expect.objectContaining({ type: "google.rpc.BadRequest" }),
    ],
    requestId: "mine",
  });
});

test.each([
  [Code.InvalidArgument, 400],
  [Code.Unauthenticated, 401],
  [Code.PermissionDenied, 403],
  [Code.NotFound, 404],
  [Code.Aborted, 409],
  [Code.FailedPrecondition, 400],
  [Code.OutOfRange, 400],
  [Code.ResourceExhausted, 429],
  [Code.Unimplemented, 501],
  [Code.Unavailable, 503],
  [Code.DeadlineExceeded, 504],
])("code %i is answered with %i", async (code, status) => {
  const server = await serve(
    clusters({
      getCluster() {
        throw new ConnectError("no", code);
      },
    }),
  );
  const failed = await call(server, "GET", "/v1/operator/clusters/a");
  expect(failed.status).toBe(status);
  if (status === 401) expect(failed.headers.get("www-authenticate")).toBe("Bearer");
});

test("429 and 503 say when to come back", async () => {
  const server = await serve(
    clusters({
      getCluster() {
        const retry = { desc: RetryInfoSchema, value: { retryDelay: { seconds: 6n, nanos: 1 } } };
        throw new ConnectError("busy", Code.ResourceExhausted, undefined, [retry]);
      },
      listClusters() {
        throw new ConnectError("away", Code.Unavailable, { "retry-after": "12" });
      },
    }),
  );
  expect((await call(server, "GET", "/v1/operator/clusters/a")).headers.get("retry-after")).toBe("7");
  expect((await call(server, "GET", "/v1/operator/clusters")).headers.get("retry-after")).toBe("12");
});

test("a handler's defect says nothing about itself", async () => {
  const server = await serve(
    clusters({
      getCluster() {
        throw new Error("password=hunter2");
      },
    }),
  );
  const failed = await call(server, "GET", "/v1/operator/clusters/a");
  expect(failed.status).toBe(500);
  expect(JSON.stringify(failed.body)).not.toMatch(/hunter2|\.ts/);
});

test("a handler sees that its client went away", async () => {
  const aborted = Promise.withResolvers<void>();
  const started = Promise.withResolvers<void>();
  const server = await serve(
    clusters({
      getCluster(_: unknown, context: { signal: AbortSignal }) {
        started.resolve();
        return new Promise<never>((_resolve, reject) => {
          context.signal.addEventListener("abort", () => {
            aborted.resolve();
            reject(new Error("aborted"));
          });
        });
      },
    }),
  );
  const client = new AbortController();
  const asked = fetch(`${server.url}/v1/operator/clusters/a`, { signal: client.signal });
  await started.promise;
  client.abort();
  await expect(asked).rejects.toThrow();
  await aborted.promise;
  expect(server.logged).toEqual([]);
});

test("a handler that takes too long is ended with 504", async () => {
  const server = await serve(
    clusters({
      getCluster: (_: unknown, context: { signal: AbortSignal }) =>
        new Promise<never>((_resolve, reject) => {
          const end = (): void => reject(context.signal.reason as Error);
          if (context.signal.aborted) end();
          else context.signal.addEventListener("abort", end);
        }),
    }),
    { limits: { answerWithinMs: 50 } },
  );
  expect((await call(server, "GET", "/v1/operator/clusters/a")).status).toBe(504);
});

test("curl over HTTP/2 gets the same", async () => {
  const server = await serve(clusters({ createCluster: () => create(ClusterSchema, hello) }), { http2: true });
  const url = `${server.url}/v1/operator/clusters`;
  const args = ["-s", "--http2-prior-knowledge", "-w", "%{http_code} %{http_version}", "--json", '{"name":"a"}', url];
  const { stdout } = await run("curl", args);
  expect(stdout).toContain('"name":"hello"');
  expect(stdout).toContain("201 2");
});
