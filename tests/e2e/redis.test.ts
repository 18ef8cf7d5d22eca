/**
 * Two replicas on one database and one Redis, which carries hints: what was
 * done through one reaches the agents of the other at once. "At once" is: told
 * by a word, and not found by the poll.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { AgentsService } from "@bowline/contract/agents";
import { Command_State, CommandService } from "@bowline/contract/commands";
import { ProductPublish_State, ProductPublishService } from "@bowline/contract/products";
import { askRedis, startReplicas, type TestRedis, testRedis, type TestServer, until } from "@bowline/testing";
import { metric } from "./metrics.ts";

let redis: TestRedis;
let a: TestServer;
let b: TestServer;

beforeAll(async () => {
  redis = await testRedis();
  [a, b] = await startReplicas(2, { flags: ["--redis-url", redis.url] });
}, 120_000);

const agentKey = (agent: { installationId: string; agentId: string }): string =>
  `bowline:${agent.installationId}:agent:${agent.agentId}`;

test("an agent on one replica gets at once what was published through the other", async () => {
  const agent = await a.scriptedAgent({ cluster: "near" });
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
  expect(await metric(a, 'bowline_commands_claimed_total{via="poll"}')).toBe(0);
  expect(await metric(a, 'bowline_wakeups_total{via="redis"}')).toBeGreaterThan(0);
  expect(await metric(b, 'bowline_wakeups_sent_total{via="notify"}')).toBe(0);
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
  await agent.session().ended;
  expect(await metric(a, 'bowline_wakeups_total{via="redis"}')).toBeGreaterThan(0);
});

test("an agent that comes to the other replica is told by the first that it was superseded, and is woken where it is", async () => {
  const agent = await a.scriptedAgent({ cluster: "moving" });
  const first = agent.session();
  const second = await agent.connect({ url: b.url });
  await first.next("superseded");
  await a.operator.publish("moving", { to: "moving" });
  expect((await second.nextCommand()).commandId).not.toBe("");
  expect(await metric(b, 'bowline_commands_claimed_total{via="poll"}')).toBe(0);
});

test("an agent's presence names its replica, for answers of the other", async () => {
  const agent = await a.scriptedAgent({ cluster: "present" });
  const key = agentKey(agent);
  await until(async () => (await askRedis(redis.url, `HGET ${key} replica`)) !== "$-1");
  const shown = await b.client(AgentsService).getAgent({ id: agent.agentId });
  expect(shown).toMatchObject({ degraded: false, replicaId: a.replicaId });
  await agent.goodbye();
  await until(async () => (await askRedis(redis.url, `EXISTS ${key}`)) === ":0", { what: "its entry is gone with it" });
});
