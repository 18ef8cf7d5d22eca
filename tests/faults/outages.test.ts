/** The server or its PostgreSQL goes away: routes answer all the time, and everything under way ends. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "@jest/globals";
import { type ProductPublish, ProductPublish_State as State } from "@bowline/contract/products";
import { isRunning, testDatabase, until } from "@bowline/testing";
import type { Api } from "../e2e/api.ts";
import { type Server, startServer } from "../e2e/fixture.ts";
import { applyProduct, live, offline, online, publish, publishVersion, serving } from "../e2e/operating.ts";
import { servedVersion, startConsumer, startUpstream, type Upstream } from "../e2e/requests.ts";

let upstream: Upstream;

beforeAll(async () => {
  upstream = await startUpstream();
});

async function withTestDatabase(): Promise<Server> {
  return startServer({ databaseUrl: (await testDatabase()).url, flags: ["--max-connections", "8"] });
}

/** What a watch says from `cursor` on, until `enough` or until its server is gone. */
function watch(api: Api, cursor = "", enough: (publish: ProductPublish) => boolean = () => false) {
  const watched = { cursor, seen: [] as ProductPublish[] };
  const ended = (async () => {
    const ending = new AbortController();
    try {
      for await (const event of api.publishes.watchProductPublish({ cursor }, { signal: ending.signal })) {
        if (event.cursor !== "") watched.cursor = event.cursor;
        if (event.productPublish !== undefined) watched.seen.push(event.productPublish);
        if (watched.seen.some(enough)) return;
      }
    } catch {
      // The server is gone; the cursor is where to go on.
    } finally {
      ending.abort();
    }
  })();
  return Object.assign(watched, { ended });
}

test("a killed server: routes answer all the time, a publish under way ends LIVE, watches go on from their cursor", async () => {
  const server = await withTestDatabase();
  const here = await serving(server.api, upstream);
  const consumer = startConsumer(here.url);
  const before = watch(server.api);
  await until(() => before.cursor, { withinMs: 60_000 });
  await applyProduct(server.api, here.product, { backend: upstream.url, version: "2" });
  const { id } = await publish(here.place, here.product);
  await until(() => before.seen.some((one) => one.id === id), { withinMs: 60_000 });
  server.process.kill("SIGKILL");
  await server.process.ended;
  expect(isRunning(here.dataPlane)).toBe(true);
  await before.ended;

  const { api } = await server.again();
  await live(api, id);
  expect(await servedVersion(here.url)).toBe("2");
  await online(api, here.agent);
  const third = await publishVersion({ ...here, place: { ...here.place, api } }, upstream, "3");
  const after = watch(api, before.cursor, (one) => one.id === third && one.state === State.LIVE);
  await after.ended;
  expect(after.seen.at(-1)).toMatchObject({ id: third, state: State.LIVE });
  expect(await servedVersion(here.url)).toBe("3");
  expect(here.agent.dataPlanes()).toEqual([here.dataPlane]);
  expect(await consumer.stop()).toEqual([]);
});

test("a server that stops in order is gone within 5 s; its agent serves on and takes work when it returns", async () => {
  const server = await withTestDatabase();
  const here = await serving(server.api, upstream);
  const consumer = startConsumer(here.url);
  const from = performance.now();
  expect(await server.process.end()).toEqual({ code: 0, signal: null });
  expect(performance.now() - from).toBeLessThan(5_000);
  expect(await servedVersion(here.url)).toBe("1");

  const { api } = await server.again();
  await publishVersion({ ...here, place: { ...here.place, api } }, upstream, "2");
  expect(await servedVersion(here.url)).toBe("2");
  expect(await consumer.stop()).toEqual([]);
});

test("both die at once: started again, the server knows its agent, and the agent what it serves", async () => {
  const server = await withTestDatabase();
  const here = await serving(server.api, upstream);
  server.process.kill("SIGKILL");
  await here.agent.kill();
  await server.process.ended;
  const agent = here.agent.again(); // Before there is a server to dial.
  const { api } = await server.again();
  await publishVersion({ ...here, place: { ...here.place, api } }, upstream, "2");
  expect(await servedVersion(here.url)).toBe("2");
  expect(agent.dataPlanes()).toEqual([here.dataPlane]);
});

test("a killed PostgreSQL comes back under its server, and nothing of what was accepted is lost", async () => {
  const server = await startServer();
  const here = await serving(server.api, upstream);
  const consumer = startConsumer(here.url);
  const pidFile = join(server.dataDir, "postgres", "data", "postmaster.pid");
  const postmaster = () => Number(readFileSync(pidFile, "utf8").split("\n")[0]);
  const killed = postmaster();
  await applyProduct(server.api, here.product, { backend: upstream.url, version: "2" });
  const { id } = await publish(here.place, here.product);
  process.kill(killed, "SIGKILL");
  // What is LIVE is asked of the next one, not of a process of the killed one that has a moment left.
  await until(() => postmaster() > 0 && postmaster() !== killed, { withinMs: 60_000, what: "another PostgreSQL runs" });
  await live(server.api, id);
  await publishVersion(here, upstream, "3");
  expect(await servedVersion(here.url)).toBe("3");
  expect(await consumer.stop()).toEqual([]);
  expect(isRunning(server.process.pid)).toBe(true);
});

test("with an embedded PostgreSQL a killed server's next start takes the data over, and its agent returns", async () => {
  const server = await startServer();
  const here = await serving(server.api, upstream);
  server.process.kill("SIGKILL");
  await server.process.ended;
  const { api } = await server.again();
  await online(api, here.agent);
  await publishVersion({ ...here, place: { ...here.place, api } }, upstream, "2");
  expect(await servedVersion(here.url)).toBe("2");
  await here.agent.process.end();
  await offline(api, here.agent);
  expect(await servedVersion(here.url)).toBe("2");
});
