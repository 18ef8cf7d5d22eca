/**
 * Two replicas on one database and one Redis, which carries hints: what was
 * done through one reaches the agents of the other at once. "At once" is: told
 * by a word, and not found by the poll. And everything goes on where Redis is
 * away, silent, emptied, or wrong.
 */
import { beforeAll, beforeEach, expect, test } from "@jest/globals";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Agent_Connectivity, AgentsService } from "@bowline/contract/agents";
import { Command_State, CommandService } from "@bowline/contract/commands";
import { AuthService } from "@bowline/contract/identity";
import { ProductPublish_State, ProductPublishService } from "@bowline/contract/products";
import {
  askRedis,
  startReplicas,
  startServer,
  startTcpProxy,
  type TcpProxy,
  temporaryFolder,
  type TestRedis,
  testRedis,
  type TestServer,
  until,
} from "@bowline/testing";
import { metric } from "../e2e/metrics.ts";

/** Entries are refreshed every 15 s, at the latest; a breaker opens and closes within seconds. */
const within = { withinMs: 60_000 };

let redis: TestRedis;
/** Between the servers and Redis. */
let way: TcpProxy;
let a: TestServer;
let b: TestServer;

beforeAll(async () => {
  redis = await testRedis();
  way = await startTcpProxy({ path: redis.url });
  [a, b] = await startReplicas(2, { flags: ["--redis-url", `redis://${way.host}:${way.port}`] });
  await redisIs("ok");
}, 120_000);

/** What one test did to Redis, or a machine that stood still, is over before the next one. */
beforeEach(() => redisIs("ok"));

/** Waits until both replicas say so of Redis, and that they are ready. */
async function redisIs(state: "ok" | "degraded"): Promise<void> {
  for (const { url } of [a, b]) {
    await until(async () => {
      const answer = await fetch(`${url}/ready`, { headers: { connection: "close" } });
      expect([answer.status, await answer.json()]).toMatchObject([200, { status: "ready", checks: { redis: state } }]);
      return true;
    }, within);
  }
}

/** How many agents of a replica were woken by another's word. */
const wokenBy = (via: "redis" | "notify", server: TestServer) => metric(server, `bowline_wakeups_total{via="${via}"}`);

const shownBy = (server: TestServer, agentId: string) => server.client(AgentsService).getAgent({ id: agentId });

const agentKey = (agent: { installationId: string; agentId: string }): string =>
  `bowline:${agent.installationId}:agent:${agent.agentId}`;

test("an agent on one replica gets at once what was published through the other", async () => {
  const agent = await a.scriptedAgent({ cluster: "near" });
  const before = await wokenBy("redis", a);
  await b.operator.product("near", "http://127.0.0.1:9");
  let said: string | null = "?";
  const publish = await b
    .client(ProductPublishService)
    .createProductPublish(
      { productId: "near", clusterId: "near" },
      { onHeader: (headers) => (said = headers.get("bowline-dispatch")) },
    );
  const command = await agent.nextCommand();
  expect(command.commandId).not.toBe("");
  expect(publish.state).toBe(ProductPublish_State.PENDING);
  expect(said).toBeNull();
  await until(async () => (await wokenBy("redis", a)) > before, { what: "told by a word" });
});

test("a cancel through one replica reaches the agent of the other", async () => {
  const agent = await a.scriptedAgent({ cluster: "cancelled" });
  await b.operator.publish("cancelled", { to: "cancelled" });
  const command = await agent.nextCommand();
  await agent.receive(command);
  await b.operator.commandIn(command.commandId, Command_State.RUNNING);
  await b.client(CommandService).cancelCommand({ id: command.commandId });
  const cancel = await agent.next("cancelCommand");
  expect(cancel).toMatchObject({ commandId: command.commandId, attempt: command.attempt });
});

test("to revoke an agent through one replica ends its session on the other", async () => {
  const agent = await a.scriptedAgent({ cluster: "revoked" });
  await b.client(AgentsService).revokeAgent({ id: agent.agentId });
  expect(await agent.session().ended).toMatchObject({ reason: "CLOSED" });
});

test("an agent that comes to the other replica is told by the first that it was superseded, and is woken where it is", async () => {
  const agent = await a.scriptedAgent({ cluster: "moving" });
  const before = await wokenBy("redis", b);
  const first = agent.session();
  const second = await agent.connect({ url: b.url });
  await first.next("superseded");
  await a.operator.publish("moving", { to: "moving" });
  expect((await second.nextCommand()).commandId).not.toBe("");
  await until(async () => (await wokenBy("redis", b)) > before, { what: "told by a word" });
});

test("an agent's presence names its replica, for answers of the other", async () => {
  const agent = await a.scriptedAgent({ cluster: "present" });
  const key = agentKey(agent);
  await until(async () => (await askRedis(redis.url, `HGET ${key} replica`)) !== "$-1", within);
  const shown = await b.client(AgentsService).getAgent({ id: agent.agentId });
  expect(shown).toMatchObject({ degraded: false, replicaId: a.replicaId });
  await agent.goodbye();
  await until(async () => (await askRedis(redis.url, `EXISTS ${key}`)) === ":0", {
    ...within,
    what: "its entry is gone with it",
  });
});

test("an entry that names another replica deceives nobody, and is put right where the rows say so", async () => {
  const agent = await a.scriptedAgent({ cluster: "lied-about" });
  const key = agentKey(agent);
  await until(async () => (await askRedis(redis.url, `EXISTS ${key}`)) === ":1", within);
  const ownReplica = key.replace(`agent:${agent.agentId}`, `replica:${a.replicaId}`);
  for (const epoch of [0, 99]) {
    await askRedis(redis.url, `HSET ${key} replica ${b.replicaId} session nobody epoch ${epoch}`);
    expect(await shownBy(b, agent.agentId)).toMatchObject({ replicaId: a.replicaId });
    await b.operator.publish(`lie-${epoch}`, { to: "lied-about" });
    expect((await agent.nextCommand()).commandId).not.toBe("");
    // It writes its entries again when it misses its own key; else with the next refresh, 15 s later.
    await askRedis(redis.url, `DEL ${ownReplica}`);
    await until(async () => (await askRedis(redis.url, `HSTRLEN ${key} replica`)) === `:${a.replicaId.length}`, within);
    await until(async () => (await askRedis(redis.url, `HSTRLEN ${key} session`)) !== ":6", {
      ...within,
      what: "its own session",
    });
  }
});

test("an emptied Redis is filled again", async () => {
  const agent = await a.scriptedAgent({ cluster: "emptied" });
  await askRedis(redis.url, "FLUSHALL");
  await b.operator.publish("emptied", { to: "emptied" });
  expect((await agent.nextCommand()).commandId).not.toBe("");
  await until(async () => (await askRedis(redis.url, `EXISTS ${agentKey(agent)}`)) === ":1", within);
  await until(async () => !(await shownBy(b, agent.agentId)).degraded, within);
});

test("a Redis that answers nothing any more delays no answer, and no command", async () => {
  const agent = await a.scriptedAgent({ cluster: "silent" });
  way.hold();
  await b.operator.publish("silent", { to: "silent" }); // it answers, and Redis never does
  expect((await agent.nextCommand()).commandId).not.toBe("");
  expect(await shownBy(b, agent.agentId)).toMatchObject({ replicaId: a.replicaId });
  await redisIs("degraded");
  way.release();
  await redisIs("ok");
});

test("while Redis is away all is dispatched, by NOTIFY and the poll, and answers say that they are degraded", async () => {
  const agent = await a.scriptedAgent({ cluster: "away" });
  const before = await wokenBy("notify", a);
  await b.operator.product("away", "http://127.0.0.1:9");
  way.cut();
  await redisIs("degraded");
  const said: (string | null)[] = [];
  const told = { onHeader: (headers: Headers) => void said.push(headers.get("bowline-dispatch")) };
  const request = { productId: "away", clusterId: "away" };
  await b.client(ProductPublishService).createProductPublish(request, told);
  const grpc = createGrpcTransport({ baseUrl: b.url, nodeOptions: { agent: false } as object });
  await createClient(ProductPublishService, grpc).createProductPublish(request, {
    ...told,
    headers: { authorization: `Bearer ${b.adminToken}` },
  });
  const rest = await fetch(`${b.url}/v1/provider/product-publishes`, {
    method: "POST",
    headers: { authorization: `Bearer ${b.adminToken}`, "content-type": "application/json", connection: "close" },
    body: JSON.stringify(request),
  });
  expect([rest.status, rest.headers.get("bowline-dispatch")]).toEqual([202, "degraded"]);
  expect(said).toEqual(["degraded", "degraded"]);
  expect((await agent.nextCommand()).commandId).not.toBe("");
  await until(async () => (await wokenBy("notify", a)) > before, { what: "told by a word" });
  expect(await metric(a, "bowline_redis_breaker_open")).toBe(1);

  expect(await shownBy(b, agent.agentId)).toMatchObject({ degraded: true, connectivity: Agent_Connectivity.ONLINE });
  expect((await b.client(AuthService).getMe({})).degraded).toEqual(["redis"]);
  await b.client(AgentsService).revokeAgent({ id: agent.agentId });
  await agent.session().ended;

  way.mend();
  await redisIs("ok");
  expect((await b.client(AuthService).getMe({})).degraded).toEqual([]);
});

test("a server starts without its Redis, and finds it when it comes", async () => {
  const socket = `${temporaryFolder()}/redis.sock`;
  const alone = await startServer({ flags: ["--redis-url", socket] });
  const ready = async () => ((await (await fetch(`${alone.url}/ready`)).json()) as { checks: object }).checks;
  expect(await ready()).toEqual({ database: "ok", redis: "degraded" });
  await testRedis({ socket });
  await until(async () => expect(await ready()).toEqual({ database: "ok", redis: "ok" }) === undefined, within);
});
