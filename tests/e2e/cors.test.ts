/** What a browser's page of another origin may do with the one port; the headers are read as a browser reads them. */
import { type IncomingHttpHeaders, request } from "node:http";
import { buffer } from "node:stream/consumers";
import { beforeAll, expect, test } from "@jest/globals";
import { startServer, type TestServer } from "@bowline/testing";

const page = "https://console.example";
let server: TestServer;
beforeAll(async () => {
  server = await startServer({ flags: ["--cors-origins", `${page},http://localhost:5173`] });
});

/** node:http and not fetch, which may not set the headers that browsers set by themselves. */
async function ask(
  path: string,
  options: { method?: string; headers?: Record<string, string>; body?: string; url?: string },
): Promise<{ status: number; headers: IncomingHttpHeaders; body: string }> {
  const { method = "GET", headers = {}, body, url = server.url } = options;
  return new Promise((resolve, reject) => {
    const asked = request(new URL(path, url), { method, headers, agent: false }, (answer) => {
      buffer(answer).then(
        (bytes) => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: bytes.toString() }),
        reject,
      );
    });
    asked.once("error", reject);
    asked.end(body);
  });
}

const rpc = "/bowline.identity.v1.AuthService/GetMe";
const words = (list: string | undefined) => (list ?? "").toLowerCase().split(", ");

test.each([
  ["REST", "/v1/operator/clusters/a", "PATCH", "authorization,content-type,if-match,idempotency-key"],
  ["Connect", rpc, "POST", "authorization,content-type,connect-protocol-version,connect-timeout-ms"],
  ["gRPC-Web", rpc, "POST", "authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout"],
])("a preflight of %s is answered 204 with what it asks for", async (_, path, method, headers) => {
  const answer = await ask(path, {
    method: "OPTIONS",
    headers: { origin: page, "access-control-request-method": method, "access-control-request-headers": headers },
  });
  expect(answer).toMatchObject({ status: 204, body: "" });
  expect(answer.headers).toMatchObject({ "access-control-allow-origin": page, vary: "Origin" });
  expect(words(answer.headers["access-control-allow-methods"])).toContain(method.toLowerCase());
  expect(words(answer.headers["access-control-allow-headers"])).toEqual(expect.arrayContaining(headers.split(",")));
  expect(Number(answer.headers["access-control-max-age"])).toBeGreaterThan(0);
  expect(answer.headers["access-control-allow-credentials"]).toBeUndefined();
});

test.each([
  ["REST", "GET", "/v1/auth/me", {}, undefined],
  ["Connect", "POST", rpc, { "content-type": "application/json" }, "{}"],
  ["gRPC-Web", "POST", rpc, { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" }, "\0\0\0\0\0"],
])("an answer of %s may be read by the page, and so may its refusal", async (_, method, path, headers, body) => {
  const authorization = `Bearer ${server.adminToken}`;
  const readable = { "access-control-allow-origin": page, vary: "Origin" };
  const answer = await ask(path, { method, body, headers: { ...headers, authorization, origin: page } });
  expect([answer.status, answer.headers]).toMatchObject([200, readable]);
  const exposed = words(answer.headers["access-control-expose-headers"]);
  expect(exposed).toEqual(
    expect.arrayContaining(["grpc-status", "grpc-message", "retry-after", "etag", "x-request-id"]),
  );
  expect((await ask(path, { method, body, headers: { ...headers, origin: page } })).headers).toMatchObject(readable);
});

test.each(["https://evil.example", "https://console.example.evil.example", "http://console.example", "null"])(
  "a page of %s may read nothing, and no cache mixes it up with one that may",
  async (origin) => {
    const answers = [
      await ask("/v1/auth/me", { headers: { origin } }),
      await ask("/v1/auth/me", { method: "OPTIONS", headers: { origin, "access-control-request-method": "GET" } }),
    ];
    for (const { headers } of answers) {
      expect(headers["access-control-allow-origin"]).toBeUndefined();
      expect(headers["access-control-allow-methods"]).toBeUndefined();
      expect(headers.vary).toBe("Origin");
    }
  },
);

test("with * every page may read, without credentials; without the setting none", async () => {
  const open = await startServer({ flags: ["--cors-origins", "*"] });
  const shut = await startServer();
  const headers = { origin: "https://anyone.example" };
  const answer = await ask("/health", { url: open.url, headers });
  expect(answer.headers["access-control-allow-origin"]).toBe("*");
  expect(answer.headers["access-control-allow-credentials"]).toBeUndefined();
  const none = await ask("/health", { url: shut.url, headers });
  expect(none.headers["access-control-allow-origin"]).toBeUndefined();
  expect(none.headers.vary).toBeUndefined();
});
