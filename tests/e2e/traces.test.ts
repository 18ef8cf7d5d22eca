/** One publish as one trace, over processes, at a receiver of OTLP. */
import { randomBytes } from "node:crypto";
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { testDatabase, until } from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { startServer } from "./fixture.ts";
import { metric } from "./metrics.ts";
import { applyProduct, freshName, joinAgent, makePlace, type Place, publishIn } from "./operating.ts";
import { startOtlpReceiver } from "./otlp-receiver.ts";
import { startUpstream } from "./requests.ts";

const settings = (url: string) => ({ OTEL_EXPORTER_OTLP_ENDPOINT: url });
/** For a receiver that never answers. Where one does, less than the default of 10 s would lose spans on a busy machine. */
const impatient = { OTEL_EXPORTER_OTLP_TIMEOUT: "500" };

/** Publishes over REST, as a caller that traces itself. Returns the publish's id. */
async function publishTraced(place: Place, token: string, product: string, traceparent: string): Promise<string> {
  const answer = await fetch(`${place.api.url}/v1/provider/product-publishes`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json", traceparent, connection: "close" },
    body: JSON.stringify({ productId: product, clusterId: place.clusterId, gatewayId: place.gatewayId }),
  });
  expect(answer.status).toBe(202);
  return ((await answer.json()) as { id: string }).id;
}

const calling = () => ({ traceId: randomBytes(16).toString("hex"), spanId: randomBytes(8).toString("hex") });

test("a publish is one trace: the caller's, from the REST call over enqueue, claim, push, fetch, apply and the data plane to the outcome", async () => {
  const receiver = await startOtlpReceiver();
  const server = await startServer({ env: settings(receiver.url), databaseUrl: (await testDatabase()).url });
  const place = await makePlace(server.api);
  const agent = await joinAgent(place, { env: { ...settings(receiver.url), OTEL_SERVICE_NAME: "edge" } });
  const product = freshName("traced-by-name");
  await applyProduct(server.api, product, { backend: (await startUpstream()).url });
  const { traceId, spanId } = calling();
  const id = await publishTraced(place, server.adminToken, product, `00-${traceId}-${spanId}-01`);
  await publishIn(server.api, id, State.LIVE);

  const create = "bowline.products.v1.ProductPublishService/CreateProductPublish";
  const fetched = "bowline.agent.v1.AgentService/FetchDeployments";
  const wanted = [
    ...[create, "command.enqueue", "command.claim", "command.push", fetched, "command.receipt", "command.result"].map(
      (name) => `bowline-control-plane ${name}`,
    ),
    "bowline-control-plane publish.outcome",
    ...["agent.fetch", "agent.apply", "dataplane.start", "dataplane.apply"].map((name) => `edge ${name}`),
  ];
  const own = () => receiver.spans().filter((span) => span.traceId === traceId);
  const names = () => new Set(own().map(({ service, name }) => `${service} ${name}`));
  await until(() => wanted.every((one) => names().has(one)), { what: "every step's span", withinMs: 30_000 });
  expect([...names()].toSorted()).toEqual(wanted.toSorted());
  const isWhole = () => {
    const ids = new Set([spanId, ...own().map((span) => span.spanId)]);
    return own().every(({ parentSpanId }) => ids.has(parentSpanId ?? ""));
  };
  await until(isWhole, { what: "the spans above those that came", withinMs: 30_000 }); // a span comes when it has ended

  // One tree: the call hangs under the caller, everything else under a span of the trace.
  const byId = new Map(own().map((span) => [span.spanId, span]));
  const parentOf = (name: string) =>
    own()
      .filter((span) => span.name === name)
      .map((span) => (span.parentSpanId === spanId ? "the caller" : byId.get(span.parentSpanId ?? "")?.name));
  expect(parentOf(create)).toEqual(["the caller"]);
  expect(new Set(parentOf("command.enqueue"))).toEqual(new Set([create]));
  for (const name of ["command.claim", "command.push", "agent.fetch", "agent.apply", "command.receipt"])
    expect([name, new Set(parentOf(name))]).toEqual([name, new Set(["command.enqueue"])]);
  expect(parentOf(fetched)).toContain("agent.fetch");
  expect(parentOf("dataplane.apply")).toEqual(["agent.apply"]);
  expect(new Set(parentOf("command.result"))).toEqual(new Set(["command.enqueue"]));
  const outcome = own().find((span) => span.name === "publish.outcome");
  expect(outcome?.attributes).toEqual({ "bowline.publish": id, "bowline.state": "LIVE" });
  expect([...receiver.paths()]).toEqual(["POST /v1/traces application/json"]);
  expect(receiver.text()).not.toContain(product);
  expect(receiver.text()).not.toContain(server.adminToken);

  // What waits is sent before the programs end.
  const before = receiver.spans().length;
  await server.api.auth.getMe({});
  agent.process.kill("SIGTERM");
  await agent.process.ended;
  server.process.kill("SIGTERM");
  await server.process.ended;
  expect(
    receiver
      .spans()
      .slice(before)
      .map(({ name }) => name),
  ).toContain("bowline.identity.v1.AuthService/GetMe");
});

test("where the server exports nothing, the agent's part still hangs under the caller; an unsampled call is not exported", async () => {
  const receiver = await startOtlpReceiver();
  const server = await startServer({ databaseUrl: (await testDatabase()).url });
  const place = await makePlace(server.api);
  await joinAgent(place, { env: settings(receiver.url) });
  const upstream = await startUpstream();
  const publish = async (flags: "00" | "01") => {
    const product = freshName("quiet");
    await applyProduct(server.api, product, { backend: upstream.url });
    const caller = calling();
    const traceparent = `00-${caller.traceId}-${caller.spanId}-${flags}`;
    await publishIn(server.api, await publishTraced(place, server.adminToken, product, traceparent), State.LIVE);
    return caller;
  };
  const unsampled = await publish("00");
  const { traceId, spanId } = await publish("01");
  await until(() => receiver.spans().some((span) => span.name === "agent.apply"));
  expect(new Set(receiver.spans().map((span) => span.traceId))).toEqual(new Set([traceId]));
  expect(receiver.spans().find((span) => span.name === "agent.apply")?.parentSpanId).toBe(spanId);
  expect(receiver.text()).not.toContain(unsampled.traceId);
});

test("a receiver that is away or hangs costs no call, what it did not take is counted, and the server ends in order", async () => {
  const hanging = await startOtlpReceiver({ hangs: true });
  const env = { ...settings(hanging.url), ...impatient };
  const server = await startServer({ env, databaseUrl: (await testDatabase()).url });
  await until(async () => (await metric(server, 'bowline_queue_dropped_total{queue="spans"}')) > 0);
  for (let calls = 0; calls < 20; calls += 1) await server.api.auth.getMe({});
  expect(await metric(server, 'bowline_queue_length{queue="spans"}')).toBeGreaterThanOrEqual(0);
  server.process.kill("SIGTERM");
  expect(await server.process.ended).toMatchObject({ code: 0 });
  expect(server.process.output()).toContain("spans could not be exported");
  expect(server.process.output()).not.toContain("did not stop in order");
});

test("a variable that cannot be used stops the start, by name, on both sides", async () => {
  const program = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
  for (const args of [
    [program("services/control-plane/src/main.ts"), "start"],
    [program("agents/local/src/main.ts"), "--server", "http://127.0.0.1:1"],
  ]) {
    const { stderr, status } = spawnSync(process.execPath, args, {
      encoding: "utf8",
      env: { PATH: process.env["PATH"], OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4318" },
    });
    expect(status).toBeGreaterThan(0);
    expect(stderr).toContain("OTEL_EXPORTER_OTLP_ENDPOINT: not an http:// or https:// URL");
  }
});

test("off, no package of OpenTelemetry is loaded", () => {
  const traces = new URL("../../libs/traces/src/index.ts", import.meta.url);
  const script = `
    import { registerHooks } from "node:module";
    registerHooks({ resolve(name, context, next) { console.log(name); return next(name, context); } });
    const { openTraces, readTraceSettings } = await import(${JSON.stringify(traces.href)});
    const settings = readTraceSettings(process.env, { name: "x", version: "1" });
    await openTraces(settings, { dropped() {}, log: { warn() {} } });`;
  const loaded = (env: Record<string, string>) =>
    spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8", env }).stdout;
  expect(loaded({ OTEL_TRACES_EXPORTER: "otlp" })).toMatch(/@opentelemetry\/sdk-trace/);
  expect(loaded({})).toMatch(/settings\.ts/);
  expect(loaded({})).not.toMatch(/opentelemetry/);
});
