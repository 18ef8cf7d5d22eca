/**
 * Rubbish on the server's port: each kind is refused or cut, memory stays
 * bounded, and an agent that is connected notices nothing.
 */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect, type Socket } from "node:net";
import { randomBytes } from "node:crypto";
import { afterEach, beforeAll, expect, test } from "@jest/globals";
import { type ScriptedAgent, startServer, type TestServer } from "@bowline/testing";

let server: TestServer;
let agent: ScriptedAgent;
beforeAll(async () => {
  server = await startServer();
  agent = await server.scriptedAgent({ cluster: "stands" });
});

afterEach(async () => {
  await agent.heartbeat();
  expect(agent.session().greeting.epoch).toBe(1);
  expect(server.process.output()).not.toMatch(/"level":"?(error|50|fatal)|uncaught/i);
});

function dial(): Socket {
  const { hostname, port } = new URL(server.url);
  return connect(Number(port), hostname).on("error", () => {}); // Being cut is what is tested.
}

/** Waits for the end, also for one with an error. */
const closed = (socket: { once(event: "close", heard: () => void): unknown }): Promise<void> =>
  new Promise((resolve) => socket.once("close", () => resolve()));

/** What comes back until the server ends the connection. */
async function answerTo(bytes: Uint8Array | string): Promise<string> {
  const socket = dial();
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  const end = closed(socket);
  socket.write(bytes);
  await end;
  return text;
}

/** Resident memory of the server. */
function residentMiB(): number {
  const status = readFileSync(`/proc/${server.process.pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
}

/** A POST over HTTP/1.1 of that many bytes, on a connection that is kept, as clients do. */
function posted(path: string, bytes: number): Promise<string> {
  const agentOfOne = new Agent({ keepAlive: true });
  const headers = { authorization: `Bearer ${server.adminToken}`, "content-type": "application/json" };
  return new Promise<string>((resolve, reject) => {
    const sent = request(`${server.url}${path}`, { method: "POST", agent: agentOfOne, headers }, (response) => {
      let text = `${response.statusCode} `;
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", () => resolve(text));
    });
    sent.on("error", reject).end(Buffer.alloc(bytes, "a"));
  }).finally(() => agentOfOne.destroy());
}

test("random bytes get no more than a 400", async () => {
  for (let count = 0; count < 20; count += 1) {
    expect(await answerTo(Buffer.concat([randomBytes(1_000), Buffer.from("\r\n\r\n")]))).toMatch(/^$|^HTTP\/1\.1 400 /);
  }
});

test("half a preface that is given up, and a preface with rubbish behind it, are closed", async () => {
  const half = dial();
  half.end("PRI * HTTP/2.0\r\n");
  await closed(half.resume());
  expect(
    await answerTo(Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), randomBytes(1_000)])),
  ).not.toMatch(/HTTP\/1/);
});

test("a body of 5 MiB is refused with its reason, over REST and over Connect", async () => {
  const bytes = 5 * 1024 * 1024;
  expect(await posted("/v1/operator/clusters", bytes)).toMatch(/^(413|429) .*BODY_TOO_LARGE/);
  expect(await posted("/bowline.clusters.v1.ClusterService/CreateCluster", bytes)).toMatch(/^429 .*resource_exhausted/);
});

test("a header block without end is refused before it costs memory", async () => {
  const before = residentMiB();
  const socket = dial();
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  const end = closed(socket);
  socket.write("GET /health HTTP/1.1\r\nHost: any\r\n");
  const pour = (): void => {
    while (!socket.destroyed && socket.write(`x-${"a".repeat(1_000)}: ${"b".repeat(10_000)}\r\n`));
    if (!socket.destroyed) socket.once("drain", pour);
  };
  pour();
  await end;
  expect(text).toMatch(/^$|^HTTP\/1\.1 431 /);
  expect(residentMiB() - before).toBeLessThan(64);
});

test("hundreds of connections that say nothing are held, and nobody else waits for them", async () => {
  const before = residentMiB();
  const silent = Array.from({ length: 300 }, dial);
  await Promise.all(silent.map((socket) => once(socket, "connect")));
  const startedAt = performance.now();
  await agent.heartbeat();
  expect(performance.now() - startedAt).toBeLessThan(8_000); // the silent ones are cut off after 15 s
  expect(residentMiB() - before).toBeLessThan(64);
  for (const socket of silent) socket.destroy();
});

test("HTTP/2 streams that are opened by the hundred and left open are bounded", async () => {
  const session = connectHttp2(server.url).on("error", () => {});
  const statuses = Array.from({ length: 300 }, () => {
    const stream = session.request({
      ":method": "POST",
      ":path": "/bowline.clusters.v1.ClusterService/ListClusters",
      "content-type": "application/json",
    });
    return stream.on("error", () => {}); // Refused above the limit, or cut with the session.
  });
  await agent.heartbeat();
  const end = closed(session);
  session.destroy();
  await end;
  expect(statuses).toHaveLength(300);
});
