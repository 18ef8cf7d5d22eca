/** What curl, a browser's fetch and a gRPC-Web client do with the one port, without a line of ours on their side. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { request as httpRequest } from "node:http";
import { beforeAll, expect, test } from "@jest/globals";
import { createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { ClusterService } from "@bowline/contract/clusters";
import { ProductPublishService } from "@bowline/contract/products";
import {
  runProcess,
  type ScriptedAgent,
  startProcess,
  startServer,
  temporaryFolder,
  type TestServer,
} from "@bowline/testing";

let server: TestServer;
let folder: string;
beforeAll(async () => {
  server = await startServer();
  folder = temporaryFolder();
  writeFileSync(join(folder, "headers"), `authorization: Bearer ${server.adminToken}\n`, { mode: 0o600 });
});

// oxlint-disable-next-line typescript/no-explicit-any
type Any = any;

/** What somebody types; the token is in a file, as curl reads headers from one. */
const curling = (path: string, ...more: string[]): string[] => {
  const always = ["curl", "-sS", "--max-time", "45", "-H", `@${join(folder, "headers")}`];
  return [...always, ...more, `${server.url}${path}`];
};

async function curl(path: string, ...more: string[]): Promise<{ status: number; body: Any }> {
  const { code, stdout, stderr } = await runProcess({ command: curling(path, "-w", "\n%{http_code}", ...more) });
  if (code !== 0) throw new Error(`curl: ${code} ${stderr}`);
  const [status = "", ...lines] = stdout.trimEnd().split("\n").toReversed();
  const text = lines.toReversed().join("\n");
  return { status: Number(status), body: text === "" ? undefined : JSON.parse(text) };
}

/** The agent does what it is told, twice: the data plane and the routes. */
async function obey(agent: ScriptedAgent, commands: number): Promise<void> {
  for (let count = 0; count < commands; count += 1) {
    const command = await agent.nextCommand();
    await agent.receive(command);
    await agent.report(command, { succeeded: true });
  }
}

const manifest = (name: string) => ({
  name,
  apiServices: [
    {
      name,
      routes: [{ name, matches: [{ path: { type: "PREFIX", value: `/${name}` } }], backends: [{ backend: name }] }],
      backends: [{ name, url: "http://127.0.0.1:9" }],
    },
  ],
});

test("curl makes a cluster and a token, applies and publishes a product, and watches it become LIVE", async () => {
  const policy = { allowPrivateBackends: true };
  const cluster = await curl(
    "/v1/operator/clusters",
    "--json",
    JSON.stringify({ name: "curled", runtime: "local", policy }),
  );
  expect(cluster).toMatchObject({ status: 201, body: { name: "curled", runtime: "local" } });
  const token = await curl(`/v1/operator/clusters/${cluster.body.id}/registration-tokens`, "--json", "{}");
  expect(token).toMatchObject({ status: 201, body: { token: expect.stringMatching(/^bwr_/) } });
  const agent = await server.scriptedAgent({ cluster: "curled" });

  const applied = await curl("/v1/provider/products/curled", "-X", "PUT", "--json", JSON.stringify(manifest("curled")));
  expect(applied).toMatchObject({ status: 200, body: { product: { name: "curled" }, revision: { number: 1 } } });
  const publish = await curl(
    "/v1/provider/product-publishes",
    "-H",
    "idempotency-key: once",
    "--json",
    JSON.stringify({ productId: "curled", clusterId: "curled" }),
  );
  expect(publish).toMatchObject({ status: 202, body: { product: "curled", cluster: "curled" } });
  const { id } = publish.body;

  const lines = startProcess({ command: curling(`/v1/provider/product-publishes/${id}:watch`, "-N") });
  const events = startProcess({
    command: curling(`/v1/provider/product-publishes/${id}:watch`, "-N", "-H", "accept: text/event-stream"),
  });
  await lines.untilOutput(/"snapshotEnd":true/);
  await events.untilOutput(/"snapshotEnd":true/);
  await obey(agent, 2);
  // Of the publish itself: that of its target comes after it, and may be ahead.
  const line = await lines.untilLine(/^\{"productPublish":\{(?:(?!"targets").)*"state":"LIVE"/);
  expect(JSON.parse(line)).toMatchObject({ productPublish: { id, state: "LIVE" }, cursor: expect.stringMatching(/./) });
  const event = await events.untilOutput(
    /^id: (.+)\ndata: (\{"productPublish":\{(?:(?!"targets").)*"state":"LIVE".*)\n/m, // all of the line
  );
  const { cursor, productPublish } = JSON.parse(event[2] ?? "") as { cursor: string; productPublish: { id: string } };
  expect({ cursor, id: productPublish.id }).toEqual({ cursor: event[1], id });
  await lines.end();
  await events.end();

  const commands = await curl(`/v1/provider/commands?productPublishId=${id}`);
  expect(commands).toMatchObject({ status: 200, body: { commands: [{ state: "SUCCEEDED", attempt: 1 }] } });
  expect((await curl(`/v1/operator/audit-events`)).status).toBe(200);
  const gone = await curl(`/v1/provider/product-publishes/${id}:unpublish`, "--json", "{}");
  expect(gone).toMatchObject({ status: 202, body: { state: "UNPUBLISHING" } });
});

test("a watch that goes on after a cursor starts with what came later", async () => {
  const watched = async (query: string, pattern: RegExp): Promise<RegExpExecArray> => {
    const watch = startProcess({ command: curling(`/v1/operator/agents:watch${query}`, "-N") });
    const found = await watch.untilOutput(pattern);
    await watch.end();
    return found;
  };
  const first = await server.scriptedAgent({ cluster: "watched", name: "first" });
  const [end] = await watched("", /^\{.*"snapshotEnd":true.*\}\n/m);
  const { cursor } = JSON.parse(end) as { cursor: string };
  const second = await server.scriptedAgent({ cluster: "watched", name: "second" });
  const [line] = await watched(`?cursor=${encodeURIComponent(cursor)}`, /^\{.*"second".*\}\n/m);
  expect(line).toContain(second.agentId);
  expect(line).not.toContain(first.agentId);
});

test("REST refuses with the status, the reason and the field", async () => {
  expect(await curl("/v1/operator/clusters/nobody")).toMatchObject({
    status: 404,
    body: { code: "not_found", reason: "NOT_FOUND" },
  });
  expect(await curl("/v1/operator/clusters", "--json", '{"name":"x","colour":"red"}')).toMatchObject({ status: 400 });
  for (const header of ["authorization: Bearer bwt_rubbish", "authorization: Basic eDp5", "x-nothing: 1"]) {
    const { stdout } = await runProcess({
      command: ["curl", "-sS", "-H", header, `${server.url}/v1/operator/clusters`],
    });
    expect(JSON.parse(stdout)).toMatchObject({ code: "unauthenticated", reason: "UNAUTHENTICATED" });
  }
  expect(await curl("/v1/operator/nothing")).toMatchObject({ status: 404 });
  expect(await curl("/v1/operator/clusters", "-X", "DELETE")).toMatchObject({ status: 405 });
});

interface Answer {
  status: number;
  headers: NodeJS.Dict<string | string[]>;
  body: Buffer;
}

/** A POST as fetch makes it, on a connection of its own. */
function post(path: string, contentType: string, body: Uint8Array | string): Promise<Answer> {
  const headers = {
    authorization: `Bearer ${server.adminToken}`,
    "connect-protocol-version": "1",
    "content-type": contentType,
  };
  return new Promise((resolve, reject) => {
    const sent = httpRequest(`${server.url}${path}`, { method: "POST", agent: false, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
      );
      response.on("error", reject);
    });
    sent.on("error", reject).end(body);
  });
}

test("a browser's fetch with JSON calls a method, and gets an error with its reason", async () => {
  const path = "/bowline.clusters.v1.ClusterService";
  const cluster = { name: "fetched", runtime: "local" };
  const made = await post(`${path}/CreateCluster`, "application/json", JSON.stringify({ cluster }));
  expect(made.status).toBe(200);
  expect(JSON.parse(made.body.toString())).toMatchObject(cluster);
  const missing = await post(`${path}/GetCluster`, "application/json", '{"id":"nobody"}');
  expect(missing.status).toBe(404);
  const problem = JSON.parse(missing.body.toString()) as Any;
  expect(problem).toMatchObject({ code: "not_found", details: [{ type: "google.rpc.ErrorInfo" }] });
  expect(problem.details[0].debug).toMatchObject({ reason: "NOT_FOUND", domain: "bowline" });
});

test("gRPC-Web and gRPC over the same port get an answer and a stream", async () => {
  await server.operator.cluster("webbed");
  const agent = await server.scriptedAgent({ cluster: "webbed" });
  const publish = await server.operator.publish("webbed", { to: "webbed" });
  await obey(agent, 2);
  const transports: Transport[] = [
    createGrpcWebTransport({ baseUrl: server.url, httpVersion: "1.1", nodeOptions: { agent: false } }),
    createGrpcTransport({ baseUrl: server.url }),
  ];
  for (const transport of transports) {
    const headers = { authorization: `Bearer ${server.adminToken}` };
    const cluster = await createClient(ClusterService, transport).getCluster({ id: "webbed" }, { headers });
    expect(cluster.name).toBe("webbed");
    const cut = new AbortController();
    const watch = createClient(ProductPublishService, transport).watchProductPublish(
      { id: publish.id },
      { headers, signal: cut.signal },
    );
    const [first] = await firstOf(watch);
    cut.abort();
    expect(first?.productPublish?.id).toBe(publish.id);
  }
});

async function firstOf<T>(messages: AsyncIterable<T>): Promise<T[]> {
  for await (const message of messages) return [message];
  return [];
}

test("the same path answers HTTP/1.1 and HTTP/2 without a change of protocol", async () => {
  for (const version of ["--http1.1", "--http2-prior-knowledge"]) {
    expect(await curl("/v1/auth/me", version)).toMatchObject({ status: 200, body: { role: "ADMIN" } });
  }
});
