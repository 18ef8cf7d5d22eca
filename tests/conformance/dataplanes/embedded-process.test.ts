/** What only the class `embedded` has: its process, its admin port, its files. */
import { expect, test } from "@jest/globals";
import { create } from "@bufbuild/protobuf";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { Agent, request } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { DataPlaneSchema, Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { embeddedDataPlane } from "@bowline/dataplane-embedded";
import { ask } from "./suite/client.ts";
import { attachedRoutes, dataPlaneId, succeeded, type Served } from "./suite/gateway.ts";
import { owned } from "./suite/own.ts";
import { startScriptedRuntime } from "./suite/runtime.ts";
import { until } from "./suite/upstream.ts";
import { until as eventually } from "@bowline/testing";

const dataPlane = embeddedDataPlane({ backendWaitScale: 0.01 });

const { ownGateway, ownUpstream } = owned();

function hello(url: string): Served {
  return { routes: [{ name: "r", backends: [{ backend: "main" }] }], backends: [{ name: "main", url }] };
}

test("the same input compiles to the same workload", async () => {
  const runtime = await startScriptedRuntime();
  const spec = create(DeploymentSchema, { id: dataPlaneId, generation: 1, desired: Deployment_Desired.RUNNING });
  const description = create(DataPlaneSchema, { listeners: [{ name: "web", port: 8080 }] });
  const compiled = dataPlane.compile(spec, description, runtime);
  expect(dataPlane.compile(spec, description, runtime)).toEqual(compiled);
  expect(spec.workloads).toEqual([]);
  expect(compiled.workloads[0]!.ports).toMatchObject([
    { name: "web", container: 8080, published: 8080 },
    { name: "bowline-admin", container: 0, published: 0, hostAddress: "127.0.0.1" },
  ]);
  await runtime.close({ stopWorkloads: true });
});

test("a listener whose port is taken fails the start with PORT_TAKEN and serves once the port is free", async () => {
  const squatter = createServer().listen(0, "127.0.0.1");
  await once(squatter, "listening");
  const { port } = squatter.address() as AddressInfo;
  const runtime = await startScriptedRuntime();
  const spec = create(DeploymentSchema, { id: dataPlaneId, generation: 1, desired: Deployment_Desired.RUNNING });
  const description = create(DataPlaneSchema, {
    listeners: [
      { name: "web", port },
      { name: "other-one", port: 0 },
    ],
  });
  const signal = AbortSignal.timeout(30_000);
  succeeded(await runtime.converge(dataPlane.compile(spec, description, runtime), () => {}, signal));
  const impatient = embeddedDataPlane({ backendWaitScale: 0.01, listeningWithinMs: 500 });
  expect(await impatient.start(dataPlaneId, description, [], () => true, runtime, signal)).toMatchObject({
    kind: "failed",
    reason: "PORT_TAKEN",
    message: expect.stringContaining(`listener "web"`),
  });
  squatter.close();
  await once(squatter, "close");
  succeeded(await dataPlane.start(dataPlaneId, description, [], () => true, runtime, signal));
  expect((await ask(port, "/")).status).toBe(404);
  await runtime.close({ stopWorkloads: true });
});

test("the admin port answers only to the secret of the volume, which only its owner can read", async () => {
  const gateway = await ownGateway(dataPlane);
  const { port } = (await gateway.runtime.upstream(dataPlaneId, "data-plane", "bowline-admin"))!;
  const volume = (await gateway.runtime.volumePath(dataPlaneId, "config"))!;
  const secret = await readFile(join(volume, "admin-token"), "utf8");
  expect((await stat(join(volume, "admin-token"))).mode & 0o777).toBe(0o600);
  const status = (headers: Record<string, string>) => ask(port, "/status", { headers });
  expect((await status({})).status).toBe(401);
  expect((await status({ authorization: `Bearer ${secret}x` })).status).toBe(401);
  expect((await status({ authorization: `Bearer ${secret}` })).json()).toMatchObject({
    listeners: [{ name: "web", state: "LISTENING" }],
  });
  const authorization = `Bearer ${secret}`;
  for (const [path, body] of [
    ["/routes/deployment_a", "{"],
    ["/routes/deployment_a", `{"format":2}`],
    ["/routes/deployment_a", `{"format":1,"deploymentId":"deployment_b","generation":1,"routes":{}}`],
    ["/routes/deployment_a", `{"format":1,"deploymentId":"deployment_a","generation":1,"routes":{"unknown":1}}`],
  ] as const) {
    expect((await ask(port, path, { method: "PUT", headers: { authorization }, body })).status).toBe(422);
  }
  const outside = await ask(port, "/routes/..%2fx", { method: "PUT", headers: { authorization }, body: "{}" });
  expect(outside.status).toBe(404);
});

test("a listener that does not answer with the new generation is PROBE_FAILED, and what was served serves on", async () => {
  const quick = embeddedDataPlane({ backendWaitScale: 0.01, probeWithinMs: 200 });
  const gateway = await ownGateway(dataPlane);
  const [one, two] = [await ownUpstream("one"), await ownUpstream("two")];
  succeeded(await gateway.apply(hello(one.url)));
  // Somebody else answers where the listener is looked for.
  const upstream = gateway.runtime.upstream.bind(gateway.runtime);
  const stranger = new URL(two.url);
  gateway.runtime.upstream = async (id, workload, port) =>
    port === "web" ? { host: stranger.hostname, port: Number(stranger.port) } : upstream(id, workload, port);
  // The second time by an agent that has lost its journal.
  for (const previous of [hello(one.url), undefined]) {
    const next = attachedRoutes({ ...hello(two.url), generation: 2 });
    const before = previous === undefined ? undefined : attachedRoutes(previous);
    const signal = AbortSignal.timeout(30_000);
    expect(await quick.apply(dataPlaneId, next, before, gateway.runtime, () => {}, signal)).toMatchObject({
      kind: "failed",
      reason: "PROBE_FAILED",
      worthRetry: true,
      message: expect.stringContaining(`listener "web"`),
    });
    expect((await gateway.ask("/")).text).toContain("one");
  }
});

test("requests are counted by deployment", async () => {
  const gateway = await ownGateway(dataPlane);
  const upstream = await ownUpstream("one");
  succeeded(await gateway.apply(hello(upstream.url)));
  for (let i = 0; i < 3; i += 1) await gateway.ask("/");
  const { port } = (await gateway.runtime.upstream(dataPlaneId, "data-plane", "bowline-admin"))!;
  const volume = (await gateway.runtime.volumePath(dataPlaneId, "config"))!;
  const authorization = `Bearer ${await readFile(join(volume, "admin-token"), "utf8")}`;
  const counted = async () =>
    ((await ask(port, "/status", { headers: { authorization } })).json()["attached"] as { inFlight: number }[])[0];
  await eventually(async () => (await counted())?.inFlight === 0); // the client has its answer a moment before
  expect(await counted()).toMatchObject({
    ...{ deploymentId: "deployment_a", generation: 1, requests: 3, inFlight: 0, answers: { "2xx": 3 } },
  });
});

test("a name that leads to a private address is refused by the data plane itself, at every connection", async () => {
  const gateway = await ownGateway(dataPlane);
  const upstream = await ownUpstream("inside");
  const volume = (await gateway.runtime.volumePath(dataPlaneId, "config"))!;
  const url = `http://localhost:${upstream.port}`;
  const routes = {
    apiServices: [
      { name: "api", routes: [{ name: "r", backends: [{ backend: "main" }] }], backends: [{ name: "main", url }] },
    ],
  };
  await gateway.runtime.crash(dataPlaneId);
  await mkdir(join(volume, "routes"), { recursive: true });
  const document = { format: 1, deploymentId: "deployment_a", generation: 1, routes };
  await writeFile(join(volume, "routes", "deployment_a.json"), JSON.stringify(document));
  await gateway.runtime.restart(dataPlaneId);
  const answer = await gateway.ask("/");
  expect(answer.status).toBe(502);
  expect(answer.json()).toMatchObject({ reason: "PRIVATE_BACKEND" });
  expect(upstream.seen).toEqual([]);
});

test("an https backend is asked only if its certificate is trusted", async () => {
  const folder = await mkdtemp(join(tmpdir(), "bowline-tls-"));
  const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  // Debian: apt-get install openssl.
  const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  const made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  await promisify(execFile)("openssl", [...made, ...subject, "-keyout", key, "-out", cert]);
  const server = createTlsServer({ key: await readFile(key), cert: await readFile(cert) }, (req, res) => {
    res.end(`secret ${req.headers.host}`);
  });
  server.listen(0, "localhost");
  await once(server, "listening");
  const url = `https://localhost:${(server.address() as AddressInfo).port}`;
  try {
    const trusting = await ownGateway(dataPlane, { SSL_CERT_FILE: cert });
    succeeded(await trusting.apply(hello(url)));
    expect(await trusting.ask("/")).toMatchObject({ status: 200, text: "secret example.com" });
    expect((await trusting.ask("/")).status).toBe(200);
    const strict = await ownGateway(dataPlane);
    succeeded(await strict.apply(hello(url)));
    const answer = await strict.ask("/");
    expect(answer.status).toBe(503);
    expect(answer.json()).toMatchObject({ reason: "BACKEND_UNREACHABLE" });
  } finally {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
    await rm(folder, { recursive: true });
  }
});

test("a kept connection does not hold up the end of the process", async () => {
  const gateway = await ownGateway(dataPlane);
  let finish: () => void = () => {};
  const held = await ownUpstream("held", (_req, res) => {
    finish = () => res.end("last");
  });
  succeeded(await gateway.apply(hello(held.url)));
  const agent = new Agent({ keepAlive: true });
  const req = request({ port: gateway.port, agent, headers: { host: "a" } });
  req.end();
  await until(() => held.seen.length === 1);
  const from = performance.now();
  const exiting = gateway.runtime.terminate(dataPlaneId);
  await until(() => gateway.runtime.output(dataPlaneId).includes('"stopping"'));
  finish();
  const [res] = (await once(req, "response")) as [import("node:http").IncomingMessage];
  res.resume();
  expect(await exiting).toBe(0);
  expect(performance.now() - from).toBeLessThan(5_000);
  agent.destroy();
});

test("a request whose kept connection to the backend has just closed is sent again", async () => {
  const gateway = await ownGateway(dataPlane);
  const fickle = await ownUpstream("fickle", (req, res) => {
    // Answers as if it kept the connection, and cuts it when the next request is on it.
    if (requests.has(req.socket)) return void req.socket.destroy();
    requests.add(req.socket);
    res.end("ok");
  });
  const requests = new WeakSet<object>();
  succeeded(await gateway.apply(hello(fickle.url)));
  for (let i = 0; i < 6; i += 1) expect(await gateway.ask("/")).toMatchObject({ status: 200, text: "ok" });
});
