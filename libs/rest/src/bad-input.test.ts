import { afterEach, expect, test } from "@jest/globals";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { promisify } from "node:util";
import fc from "fast-check";
import { ClusterService } from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import { startScripted } from "./scripted-server.ts";
import type { ScriptedServer } from "./scripted-server.ts";

const run = promisify(execFile);
const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

/** Handlers that count how often they were reached: a refused request reaches none. */
async function serve(
  options: Parameters<typeof startScripted>[1] = {},
): Promise<ScriptedServer & { reached(): number }> {
  let reached = 0;
  const reach = (): object => {
    reached += 1;
    return {};
  };
  const server = await startScripted((router) => {
    router.service(ClusterService, {
      createCluster: reach,
      updateCluster: reach,
      getCluster: reach,
      deleteCluster: reach,
    });
    router.service(CommandService, { listCommands: reach, cancelCommand: reach });
  }, options);
  ends.push(() => server.close());
  return { ...server, reached: () => reached };
}

const path = "/v1/operator/clusters";

async function post(server: ScriptedServer, body: string | Buffer, headers: Record<string, string> = {}) {
  const answer = await fetch(server.url + path, {
    method: "POST",
    body,
    headers: { "content-type": "application/json", ...headers },
  });
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
}

test.each([
  ["half an object", '{"name": "a"', "it ends too early"],
  ["not JSON", '{\n  "name": "a",\n  nome: 1}', "line 3, column 3"],
  ["no UTF-8", Buffer.from([0x22, 0xff, 0x22]), "not UTF-8"],
  ["one key twice", '{"name":"a","labels":{"x":"1","\\u0078":"2"}}', "labels.x is there twice"],
  ["U+0000 in a text", '{"labels":{"a":"b\\u0000"}}', "labels.a contains the character U+0000"],
  ["half a surrogate pair", '{"capabilities":["ok","\\ud800"]}', "capabilities[1] contains half a surrogate pair"],
  ["too deep", `${'{"policy":'.repeat(100)}1${"}".repeat(100)}`, "nests deeper than 64"],
  ["a million brackets", "[".repeat(1_000_000), "it ends too early"],
])("a body with %s is 400 MALFORMED_BODY and says where", async (_, body, message) => {
  const server = await serve();
  const failed = await post(server, body);
  expect(failed).toMatchObject({
    status: 400,
    body: { code: "invalid_argument", reason: "MALFORMED_BODY", message: expect.stringContaining(message) },
  });
  expect(server.reached()).toBe(0);
});

test.each([
  ['"text"', "cluster", "must be an object"],
  ["[]", "cluster", "must be an object"],
  ['{"nome":1}', "cluster.nome", "is not known"],
  ['{"__proto__":{"a":1}}', "cluster.__proto__", "is not known"],
  ['{"constructor":1}', "cluster.constructor", "is not known"],
  ['{"name":1}', "cluster.name", "must be a string"],
  ['{"displayName":"a","display_name":"b"}', "cluster.display_name", "is there twice"],
  ['{"isDefault":"yes"}', "cluster.is_default", "must be true or false"],
  ['{"labels":{"a":1}}', 'cluster.labels["a"]', "must be a string"],
  ['{"labels":[]}', "cluster.labels", "must be an object"],
  ['{"capabilities":"a"}', "cluster.capabilities", "must be a list"],
  ['{"capabilities":["a",null]}', "cluster.capabilities[1]", "must be a string"],
  ['{"agentsOnline":-1}', "cluster.agents_online", "must be an integer from 0 to 4294967295"],
  ['{"agentsOnline":4294967296}', "cluster.agents_online", "must be an integer from 0 to 4294967295"],
  ['{"agentsOnline":1.5}', "cluster.agents_online", "must be an integer from 0 to 4294967295"],
  ['{"createdAt":"yesterday"}', "cluster.created_at", "must be a time such as 2026-01-31T12:00:00Z"],
  [
    '{"policy":{"driftRepair":"MAYBE"}}',
    "cluster.policy.drift_repair",
    "must be one of DRIFT_REPAIR_UNSPECIFIED, SHOW, REPAIR",
  ],
])("the body %s is 400 INVALID_ARGUMENT with the field's path", async (body, field, description) => {
  const server = await serve();
  const failed = await post(server, body);
  expect(failed).toMatchObject({
    status: 400,
    body: { code: "invalid_argument", reason: "INVALID_ARGUMENT", fieldViolations: [{ field, description }] },
  });
  expect(server.reached()).toBe(0);
});

test("many wrong fields are named up to a limit, and long names are cut", async () => {
  const server = await serve();
  const body = Object.fromEntries(Array.from({ length: 1000 }, (_, at) => [`${at}${"x".repeat(500)}`, 1]));
  const failed = await post(server, JSON.stringify(body));
  const violations = failed.body["fieldViolations"] as { field: string }[];
  expect(violations.length).toBe(16);
  expect(Math.max(...violations.map(({ field }) => field.length))).toBeLessThan(150);
});

test.each([
  ["page_size=-1", "page_size"],
  ["page_size=99999999999999999999999", "page_size"],
  ["page_size=1e2", "page_size"],
  ["page_size=", "page_size"],
  ["page_size=1&pageSize=2", "page_size"],
  ["states=NOTHING", "states"],
  ["return_total_size=yes", "return_total_size"],
  ["nothing=1", "nothing"],
  ["page_size.x=1", "page_size.x"],
  ["cluster_id=%ff", "cluster_id"],
  ["cluster_id=%zz", "cluster_id"],
  ["cluster_id=a%00b", "cluster_id"],
  ["__proto__.a=1", "__proto__.a"],
])("the query ?%s is 400 INVALID_ARGUMENT and names the parameter", async (query, field) => {
  const server = await serve();
  const answer = await fetch(`${server.url}/v1/operator/commands?${query}`);
  expect(answer.status).toBe(400);
  expect(await answer.json()).toMatchObject({
    reason: "INVALID_ARGUMENT",
    fieldViolations: [{ field, description: expect.any(String) }],
  });
  expect(server.reached()).toBe(0);
});

test("more query parameters than the limit are refused", async () => {
  const server = await serve();
  const answer = await fetch(`${server.url}/v1/operator/commands?${"states=READY&".repeat(200)}`);
  expect([answer.status, await answer.json()]).toMatchObject([400, { reason: "INVALID_ARGUMENT" }]);
});

test("a path with broken percent-encoding or control characters is 400 and names the variable", async () => {
  const server = await serve();
  for (const id of ["%ff", "%zz", "a%00", "%0d%0aset-cookie:x"]) {
    const answer = await fetch(`${server.url}${path}/${id}`);
    if (answer.status === 404) continue; // an unencoded colon begins a verb
    expect([id, answer.status, await answer.json()]).toMatchObject([id, 400, { fieldViolations: [{ field: "id" }] }]);
  }
  expect(server.reached()).toBe(0);
});

test("what is set twice, or cannot be taken, is refused rather than ignored", async () => {
  const server = await serve();
  const send = async (
    method: string,
    url: string,
    headers: Record<string, string>,
    body?: string,
  ): Promise<unknown> => {
    const all = { ...(body !== undefined && { "content-type": "application/json" }), ...headers };
    const answer = await fetch(server.url + url, { method, headers: all, body });
    return [answer.status, ((await answer.json()) as { message: string }).message];
  };
  expect(await send("DELETE", `${path}/a`, {}, "{}")).toEqual([400, "This method takes no body."]);
  expect(await send("GET", `${path}/a?id=b`, {})).toEqual([400, "id is in the path or the body already."]);
  expect(await send("POST", `${path}?request_id=a`, { "idempotency-key": "b" }, "{}")).toEqual([
    400,
    "request_id is in the path or the body already.",
  ]);
  expect(await send("PATCH", `${path}/a`, { "if-match": '"1", "2"' }, "{}")).toEqual([
    400,
    'If-Match takes one etag, e.g. If-Match: "3".',
  ]);
  expect(await send("POST", "/v1/operator/commands/a:cancel", { "if-match": '"1"' })).toEqual([
    400,
    "If-Match guards nothing here: this method takes no etag.",
  ]);
  expect(server.reached()).toBe(0);
});

test.each([
  ["application/x-www-form-urlencoded", {}],
  ["text/plain", {}],
  ["application/json; charset=latin1", {}],
  ["application/jsonx", {}],
  ["application/json", { "content-encoding": "gzip" }],
])("content type %s %j is 415", async (type, headers) => {
  const server = await serve();
  const failed = await post(server, "{}", { "content-type": type, ...headers });
  expect(failed).toMatchObject({ status: 415, body: { reason: "UNSUPPORTED_MEDIA_TYPE" } });
  expect(server.reached()).toBe(0);
});

test.each([{ http2: false }, { http2: true }])(
  "a body over the limit is 413, announced or not: %j",
  async ({ http2 }) => {
    // Cut off before curl has sent all, it would not see the answer.
    const server = await serve({ http2, limits: { maxBodyBytes: 1000, discardWithinMs: 60_000 } });
    const flag = http2 ? "--http2-prior-knowledge" : "--http1.1";
    const body = JSON.stringify({ name: "x".repeat(200_000) });
    for (const extra of [[], ["-H", "transfer-encoding: chunked"]]) {
      if (http2 && extra.length > 0) continue; // HTTP/2 has no such header
      const args = ["-s", flag, "-w", " %{http_code}", "-H", "content-type: application/json", ...extra, "-d", "@-"];
      const curl = run("curl", [...args, server.url + path]);
      curl.child.stdin?.end(body);
      const { stdout } = await curl;
      expect(stdout).toContain("BODY_TOO_LARGE");
      expect(stdout).toMatch(/ 413$/);
    }
    expect(server.reached()).toBe(0);
  },
);

test("a body that does not come is answered 400 and cut off within the named time", async () => {
  const server = await serve({ limits: { bodyWithinMs: 100, discardWithinMs: 50 } });
  const socket = connect(Number(new URL(server.url).port), "127.0.0.1");
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += String(chunk)));
  socket.write(`POST ${path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{`);
  await new Promise<void>((resolve) => socket.once("close", () => resolve()));
  expect(text).toMatch(/400 Bad Request[^]*has not arrived within 100 ms/);
  expect([server.reached(), server.logged]).toEqual([0, []]);
});

test("a body that does not come over HTTP/2 is answered 400, and its stream ends", async () => {
  const server = await serve({ limits: { bodyWithinMs: 100, discardWithinMs: 50 }, http2: true });
  const session = connectHttp2(server.url);
  const stream = session.request({ ":method": "POST", ":path": path, "content-type": "application/json" });
  stream.write("{");
  const [headers] = (await once(stream, "response")) as [Record<string, unknown>];
  expect(headers[":status"]).toBe(400);
  stream.resume();
  await once(stream, "close");
  session.destroy();
  expect([server.reached(), server.logged]).toEqual([0, []]);
});

test("a client that breaks off in its body leaves nothing in the log", async () => {
  const server = await serve();
  const socket = connect(Number(new URL(server.url).port), "127.0.0.1");
  socket.end(`POST ${path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{`);
  socket.resume();
  await new Promise<void>((resolve) => socket.once("close", () => resolve()));
  expect([server.reached(), server.logged]).toEqual([0, []]);
});

test("whatever JSON comes, the answer is a failure with a reason or a success, never a defect", async () => {
  const server = await serve();
  const key = fc.constantFrom("name", "labels", "policy", "isActive", "capabilities", "state", "createdAt", "x");
  const resource = fc.dictionary(key, fc.jsonValue({ maxDepth: 3 }));
  await fc.assert(
    fc.asyncProperty(fc.oneof(resource, fc.jsonValue()), async (value) => {
      const { status, body } = await post(server, JSON.stringify(value));
      if (status !== 201) expect([status, body["reason"]]).toEqual([400, expect.stringMatching(/^[A-Z_]+$/)]);
    }),
    { numRuns: 200, seed: 1 },
  );
  expect(server.logged).toEqual([]);
});
