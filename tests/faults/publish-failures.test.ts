/** A failed update leaves the last good generation serving, tells why, and disturbs nobody else. */
import { createServer, type Server as TcpServer } from "node:net";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { beforeAll, expect, test } from "@jest/globals";
import { Command_State } from "@bowline/contract/commands";
import { type ProductPublish, ProductPublish_State as State } from "@bowline/contract/products";
import { atEnd, freePort, runProcess, testDatabase, until } from "@bowline/testing";
import { refusal } from "../e2e/api.ts";
import { programs, type Server, startServer } from "../e2e/fixture.ts";
import {
  applyProduct,
  freshName,
  joinAgent,
  live,
  makePlace,
  publish,
  publishIn,
  publishVersion,
  serving,
} from "../e2e/operating.ts";
import { servedVersion, startConsumer, startUpstream, type Upstream } from "../e2e/requests.ts";

let server: Server;
let upstream: Upstream;

beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url, flags: ["--max-connections", "8"] });
  upstream = await startUpstream();
}, 60_000);

/** Somebody else's program on a port. */
async function takePort(port: number): Promise<() => Promise<void>> {
  const other: TcpServer = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => other.once("error", reject).listen(port, "127.0.0.1", resolve));
  let freeing: Promise<void> | undefined;
  const free = () => (freeing ??= new Promise<void>((resolve) => other.close(() => resolve())));
  atEnd(free);
  return free;
}

/** The CLI, as a person uses it. */
function bowline(...args: string[]) {
  return runProcess({
    command: ["node", programs.cli, ...args],
    env: { BOWLINE_URL: server.url, BOWLINE_TOKEN: server.adminToken, NO_COLOR: "1" },
  });
}

test("an unreachable backend fails its publish with route, backend and tries; the last good one serves, others work on", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  const first = startConsumer(here.url);
  const other = freshName("product");
  await applyProduct(api, other, { backend: upstream.url });
  const otherUrl = `${(await live(api, (await publish(here.place, other)).id)).url}/${other}`;
  const second = startConsumer(otherUrl);

  const port = await freePort();
  await applyProduct(api, other, { backend: upstream.url, version: "2" });
  await applyProduct(api, here.product, { backend: `http://127.0.0.1:${port}`, version: "2" });
  const { clusterId, gatewayId } = here.place;
  const [{ id }, beside] = await Promise.all([
    publish(here.place, here.product),
    api.publishes.createProductPublish({ productId: other, revisionId: "2", clusterId, gatewayId }),
  ]);
  await live(api, beside.id);
  expect(await servedVersion(otherUrl)).toBe("2");

  const failed = await publishIn(api, id, State.FAILED);
  expect(failed).toMatchObject({ reason: "BACKEND_UNREACHABLE", liveTargets: 0 });
  expect(failed.message).toMatch(
    new RegExp(
      `route "all" sends to backend "upstream" at http://127\\.0\\.0\\.1:${port}: connection refused, 4 tries in \\d+ s`,
    ),
  );
  expect(failed.targets).toMatchObject([
    { state: State.FAILED, reason: "BACKEND_UNREACHABLE", servingRevision: 1, servingGeneration: 1, generation: 2 },
  ]);
  expect(await servedVersion(here.url)).toBe("1");
  // Meanwhile the other product of the gateway got its update at once.
  const endedAt = async ({ targets }: ProductPublish): Promise<number> => {
    const { endedAt: at } = await api.commands.getCommand({ id: targets[0]?.commandId ?? "" });
    return at === undefined ? NaN : timestampMs(at);
  };
  expect(await endedAt(beside)).toBeLessThan(await endedAt(failed));

  // As the CLI tells it, with the next command to type.
  const shown = await bowline("publish", "get", id);
  expect(shown.output).toContain("BACKEND_UNREACHABLE");
  expect(shown.output).toContain("still serving");

  // The backend comes up, and a retry of the same command ends LIVE.
  await startUpstream("mended", port);
  const retried = await bowline("command", "retry", failed.targets[0]?.commandId ?? "", "--wait", "--output", "json");
  expect(retried).toMatchObject({ code: 0 });
  await live(api, id);
  expect(await servedVersion(here.url)).toBe("2");
  expect(await first.stop()).toEqual([]);
  expect(await second.stop()).toEqual([]);
});

test("a rollback after a failed update, and after a good one, restores the older revision", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  const good = await publishVersion(here, upstream, "2");
  expect(await servedVersion(here.url)).toBe("2");

  const back = await api.publishes.rollbackProductPublish({ id: good });
  expect(back).toMatchObject({ revision: 1, rollbackOf: here.publishId });
  await live(api, back.id);
  expect(await servedVersion(here.url)).toBe("1");
  expect((await api.publishes.getProductPublish({ id: good })).state).toBe(State.SUPERSEDED);
  expect(await refusal(api.publishes.unpublishProductPublish({ id: good }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "NOT_NEWEST_PUBLISH",
  });
});

test("routes that no data plane could serve are refused before anything changes", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  const manifest = (value: string, type: 1 | 2 | 3) => ({
    name: here.product,
    apiServices: [
      {
        name: "main",
        backends: [{ name: "upstream", url: upstream.url }],
        routes: [{ name: "all", matches: [{ path: { type, value } }], backends: [{ backend: "upstream" }] }],
      },
    ],
  });
  for (const [value, type] of [
    ["/(unclosed", 3],
    ["/(a+)+$", 3],
    ["no-slash", 2],
    ["/a/../b", 1],
  ] as const) {
    const refused = await refusal(api.products.applyProduct({ manifest: manifest(value, type) }));
    expect({ value, ...refused }).toMatchObject({ value, reason: "INVALID_ARGUMENT" });
  }
  const missing = manifest("/x", 2);
  missing.apiServices[0]!.routes[0]!.backends = [{ backend: "nobody" }];
  expect(await refusal(api.products.applyProduct({ manifest: missing }))).toMatchObject({ reason: "INVALID_ARGUMENT" });
  expect((await api.products.getProduct({ id: here.product })).latestRevision).toBe(1);
  expect(await servedVersion(here.url)).toBe("1");

  // What another product answers on there is refused at publish time, and names it.
  const rival = freshName("product");
  await applyProduct(api, rival, { backend: upstream.url, path: `/${here.product}` });
  const conflict = await refusal(publish(here.place, rival));
  expect(conflict).toMatchObject({ code: "AlreadyExists", reason: "ROUTE_CONFLICT" });
  expect(conflict.message).toContain(here.product);
  expect((await api.publishes.listProductPublishes({ productId: rival })).productPublishes).toEqual([]);
});

test("a gateway port that is taken fails the publish within seconds and says so; freed, a retry makes it LIVE", async () => {
  const { api } = server;
  const port = await freePort();
  const free = await takePort(port);
  const place = await makePlace(api, port);
  const agent = await joinAgent(place);
  const product = freshName("product");
  await applyProduct(api, product, { backend: upstream.url });
  const { id } = await publish(place, product);
  const shown = await until(async () => {
    const found = await api.publishes.getProductPublish({ id });
    return found.targets[0]?.message.includes("PORT_TAKEN") ? found : undefined;
  });
  expect(shown.targets[0]?.message).toContain(String(port));

  await publishIn(api, id, State.FAILED);
  const failed = await until(async () => {
    const found = await api.publishes.getProductPublish({ id });
    return found.conditions.includes("DATA_PLANE_FAILED") ? found : undefined;
  });
  expect(failed).toMatchObject({ reason: "DATA_PLANE_NOT_READY" });
  expect(failed.message).toMatch(new RegExp(`PORT_TAKEN.*${port}`));
  await free();
  const retried = await bowline("command", "retry", failed.targets[0]?.commandId ?? "", "--wait");
  expect(retried).toMatchObject({ code: 0 });
  const { url } = await live(api, id);
  expect(url).toBe(`http://127.0.0.1:${port}`);
  expect(await servedVersion(`${url}/${product}`)).toBe("1");
  expect(agent.dataPlanes()).toHaveLength(1);
});

test("a gateway that is moved to a taken port keeps its old listener, and tells why", async () => {
  const { api } = server;
  const [port, taken] = [await freePort(), await freePort()];
  await takePort(taken);
  const place = await makePlace(api, port);
  await joinAgent(place);
  const product = freshName("product");
  await applyProduct(api, product, { backend: upstream.url });
  const { id } = await publish(place, product);
  const { url } = await live(api, id);

  const gateway = await api.gateways.getGateway({ id: place.gatewayId });
  await api.gateways.updateGateway({
    gateway: { id: gateway.id, etag: gateway.etag, listeners: [{ name: "http", protocol: "HTTP", port: taken }] },
    updateMask: { paths: ["listeners"] },
  });
  await until(
    async () => {
      const { commands } = await api.commands.listCommands({ clusterId: place.clusterId });
      return commands.some((one) => one.generation === 2 && one.state === Command_State.FAILED);
    },
    { withinMs: 45_000 },
  );
  const after = await api.publishes.getProductPublish({ id });
  expect(after).toMatchObject({ state: State.LIVE, conditions: ["DATA_PLANE_FAILED"] });
  expect(await servedVersion(`${url}/${product}`)).toBe("1");
});
