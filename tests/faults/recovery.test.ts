/** An agent or a data plane dies: what runs goes on, what was accepted ends, and nothing is doubled. */
import { beforeAll, expect, test } from "@jest/globals";
import { Agent_Connectivity as Connectivity } from "@bowline/contract/agents";
import { Command_State } from "@bowline/contract/commands";
import { isRunning, testDatabase, until } from "@bowline/testing";
import { type Server, startAgent, startServer } from "../e2e/fixture.ts";
import {
  applyProduct,
  freshName,
  issueToken,
  serving,
  live,
  makePlace,
  online,
  type Place,
  publish,
} from "../e2e/operating.ts";
import { servedVersion, startConsumer, startUpstream, type Upstream } from "../e2e/requests.ts";

/** A cold start on two busy cores. */
const within = { withinMs: 60_000 };

let server: Server;
let upstream: Upstream;

beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url });
  upstream = await startUpstream();
}, 60_000);

/** How each command of a place ended, and with which attempt. */
async function commandsOf({ clusterId }: Place) {
  const { commands } = await server.api.commands.listCommands({ clusterId });
  return commands;
}

test("a killed agent leaves its data plane serving; started again it adopts the same process", async () => {
  const { place, agent, product, url, dataPlane } = await serving(server.api, upstream);
  const consumer = startConsumer(url);
  await agent.kill();
  expect(await servedVersion(url)).toBe("1");
  expect(isRunning(dataPlane)).toBe(true);

  const restarted = agent.again();
  await until(async () => {
    const found = await server.api.agents.getAgent({ id: await agent.id() });
    return found.connectivity === Connectivity.ONLINE && found.epoch >= 2;
  }, within);
  await applyProduct(server.api, product, { backend: upstream.url, version: "2" });
  await live(server.api, (await publish(place, product)).id);
  expect(await servedVersion(url)).toBe("2");
  expect(restarted.dataPlanes()).toEqual([dataPlane]);
  expect(await consumer.stop()).toEqual([]);
  const ended = (await commandsOf(place)).map(({ state, attempt }) => ({ state, attempt }));
  expect(ended).toEqual(Array(3).fill({ state: Command_State.SUCCEEDED, attempt: 1 }));
});

test.each([
  "intake.before-journal",
  "intake.before-receipt",
  "converge.started",
  "local.after-spawn",
  "converge.effect",
  "converge.before-result",
  "converge.after-result",
])("an agent killed at %s during a first publish: it ends LIVE, with one data plane", async (fault) => {
  const place = await makePlace(server.api);
  const agent = startAgent(server.url, { token: await issueToken(place), env: { BOWLINE_FAULT: fault } });
  await online(server.api, agent);
  const product = freshName("product");
  await applyProduct(server.api, product, { backend: upstream.url });
  const { id } = await publish(place, product);
  expect(await agent.process.ended).toMatchObject({ signal: "SIGKILL" });

  const restarted = agent.again();
  const { url } = await live(server.api, id);
  expect(await servedVersion(`${url}/${product}`)).toBe("1");
  expect(restarted.dataPlanes()).toHaveLength(1);
  const states = (await commandsOf(place)).map((command) => command.state);
  expect(states).toEqual([Command_State.SUCCEEDED, Command_State.SUCCEEDED]);
});

test("an agent that stops in order leaves its workloads, and the next start adopts them", async () => {
  const { agent, url, dataPlane } = await serving(server.api, upstream);
  expect(await agent.process.end()).toEqual({ code: 0, signal: null });
  expect(await servedVersion(url)).toBe("1");
  const restarted = agent.again();
  await online(server.api, restarted);
  expect(restarted.dataPlanes()).toEqual([dataPlane]);
});

test("a killed data plane is started again and serves the last good generation", async () => {
  const { agent, url, dataPlane } = await serving(server.api, upstream);
  process.kill(dataPlane, "SIGKILL");
  await until(() => agent.dataPlanes().some((pid) => pid !== dataPlane), within);
  await until(async () => (await servedVersion(url)) === "1", within);
  expect(agent.dataPlanes()).toHaveLength(1);
});
