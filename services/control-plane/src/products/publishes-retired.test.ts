/** What becomes of publishes when the host of an agent is gone for good. */
import { expect, test } from "@jest/globals";
import { AgentsService } from "@bowline/contract/agents";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { testDatabase } from "@bowline/testing";
import { reasonOf } from "../platform/in-process.ts";
import { manifest, startPublishing } from "./publishes.fixture.ts";

async function start() {
  const api = await startPublishing((await testDatabase()).db);
  const clusterId = await api.cluster("local");
  await api.apply(manifest("hello"));
  const agents = api.as(AgentsService, "alpha/operator");
  return {
    ...api,
    clusterId,
    agents,
    publish: () => api.alpha.createProductPublish({ productId: "hello", clusterId: "local" }),
    get: (id: string) => api.alpha.getProductPublish({ id }),
    retire: (id: string) => agents.retireAgent({ id, force: true }),
  };
}

test("a LIVE publish serves on at the other agents, and counts the retired one no more", async () => {
  const { agent, clusterId, publish, get, retire, agents, db } = await start();
  const [one, two] = [await agent(clusterId), await agent(clusterId)];
  const { id } = await publish();
  await one.workOff();
  await two.workOff();
  await retire(one.id);
  expect(await get(id)).toMatchObject({ state: State.LIVE, liveTargets: 1, targets: [{ agentId: two.id }] });
  expect((await get(id)).conditions).toEqual([]);
  expect(await db.selectFrom("data_planes").select("agent_id").execute()).toEqual([{ agent_id: two.id }]);
  await agents.deleteAgent({ id: one.id });
  await retire(two.id);
  expect(await get(id)).toMatchObject({ state: State.LIVE, targets: [], conditions: ["NO_AGENT"] });
});

test("what the retired agent alone held up goes on", async () => {
  const { agent, clusterId, publish, get, retire } = await start();
  const [one, two] = [await agent(clusterId), await agent(clusterId)];
  const { id } = await publish();
  await one.workOff();
  const [plane, routes] = await two.claim();
  if (plane === undefined || routes === undefined) throw new Error("two commands were expected");
  await two.receive(routes);
  expect((await get(id)).state).not.toBe(State.LIVE);
  await retire(two.id);
  expect(await get(id)).toMatchObject({ state: State.LIVE, reason: "", targets: [{ agentId: one.id }] });
});

test("a publish that no agent is left for waits, and the next agent gets it", async () => {
  const { agent, clusterId, publish, get, retire, placeEverywhere } = await start();
  const one = await agent(clusterId);
  const { id } = await publish();
  await one.claim();
  await retire(one.id);
  expect(await get(id)).toMatchObject({ state: State.PENDING, reason: "NO_AGENT", targets: [] });
  const two = await agent(clusterId);
  await placeEverywhere();
  expect(await two.workOff()).toEqual(["data plane", "routes"]);
  expect(await get(id)).toMatchObject({ state: State.LIVE, liveTargets: 1 });
});

test("unpublishing ends where the agent is retired, whatever its removal was doing", async () => {
  const { agent, clusterId, publish, get, retire, alpha, db } = await start();
  const [one, two] = [await agent(clusterId), await agent(clusterId)];
  const { id } = await publish();
  await one.workOff();
  await two.claim(); // in flight there: the removal waits behind it
  await alpha.unpublishProductPublish({ id });
  expect(await one.workOff()).toEqual(["routes gone", "data plane gone"]);
  expect((await get(id)).state).toBe(State.UNPUBLISHING);
  await retire(two.id);
  expect((await get(id)).state).toBe(State.UNPUBLISHED);
  expect((await get(id)).targets.find(({ agentId }) => agentId === two.id)).toMatchObject({
    state: State.UNPUBLISHED,
    reason: "AGENT_RETIRED",
  });
  expect(await db.selectFrom("route_attachments").selectAll().execute()).toEqual([]);
  expect(await db.selectFrom("deployments").select("id").where("is_absent", "=", false).execute()).toEqual([]);
});

test("a cluster whose only host is gone for good can be deleted with cascade", async () => {
  const { agent, clusterId, publish, operator, retire } = await start();
  const one = await agent(clusterId);
  await publish();
  await one.workOff();
  await operator.deleteCluster({ id: clusterId, cascade: true });
  await retire(one.id);
  await operator.deleteCluster({ id: clusterId, cascade: true });
  expect(await reasonOf(operator.getCluster({ id: clusterId }))).toBe("NOT_FOUND");
});
