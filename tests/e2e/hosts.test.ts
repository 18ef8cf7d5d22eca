/** The life of a host's agent, whole: its replacement, its keys. */
import { beforeAll, expect, test } from "@jest/globals";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { isRunning, testDatabase, until } from "@bowline/testing";
import { type Server, startAgent, startServer } from "./fixture.ts";
import { live, offline, online, serving } from "./operating.ts";
import { servedVersion, startUpstream } from "./requests.ts";

/** On two busy cores. */
const settledWithinMs = 45_000;

let server: Server;
beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url });
}, 60_000);

test("a dead host's replacement becomes its agent by a rekey token: the routes answer there, and the dead one is refused", async () => {
  const { api } = server;
  const upstream = await startUpstream();
  const { agent: a, place, product, publishId, dataPlane } = await serving(api, upstream);
  const agentId = await a.id();
  const before = await api.agents.getAgent({ id: agentId });
  await a.kill();
  process.kill(dataPlane, "SIGKILL");
  await until(() => !isRunning(dataPlane));
  await offline(api, a);

  const { token } = await api.tokens.createRegistrationToken({ rekeyAgentId: agentId });
  const b = startAgent(server.url, { token });
  await until(async () => (await b.id()) === agentId, { withinMs: settledWithinMs });
  await online(api, b);
  const { url } = await live(api, publishId);
  const target = async () => (await api.publishes.getProductPublish({ id: publishId })).targets[0];
  await until(async () => (await target())?.state === State.LIVE, { withinMs: settledWithinMs });
  expect(await servedVersion(`${url}/${product}`)).toBe("1");
  expect(b.dataPlanes()).toHaveLength(1);
  const after = await api.agents.getAgent({ id: agentId });
  expect(after.name).toBe(before.name);
  expect(after.keyThumbprint).not.toBe(before.keyThumbprint);
  expect((await api.agents.listAgents({ clusterId: place.clusterId })).agents).toHaveLength(1);

  const dead = a.again();
  expect(await dead.process.ended).toMatchObject({ code: 4 });
  expect(dead.process.output()).toMatch(/AGENT_KEY_REPLACED: .*token create --rekey/);
  expect((await api.agents.getAgent({ id: agentId })).epoch).toBe(after.epoch);
});
