/** Which agents get a publish, when, and what becomes of it as they come, go and change. */
import { expect, test } from "@jest/globals";
import { GatewayService, ProductPublish_State as State } from "@bowline/contract/products";
import { testDatabase } from "@bowline/testing";
import { reasonOf } from "../platform/in-process.ts";
import { agentGone } from "../commands/index.ts";
import { transact } from "../platform/transactions.ts";
import { manifest, startPublishing } from "./publishes.fixture.ts";

async function start(clusterFields: object = {}) {
  const api = await startPublishing((await testDatabase()).db);
  const clusterId = await api.cluster("local", clusterFields);
  await api.apply(manifest("hello"));
  const publish = (more: object = {}) =>
    api.alpha.createProductPublish({ productId: "hello", clusterId: "local", ...more });
  const get = (id: string) => api.alpha.getProductPublish({ id });
  /** Agents that have a target, by id, sorted. */
  const targets = async (id: string) => (await get(id)).targets.map((target) => target.agentId).sort();
  const change = (agentId: string, fields: object) =>
    api.db.updateTable("agents").set(fields).where("id", "=", agentId).execute();
  return { ...api, clusterId, publish, get, targets, change };
}

test("an agent that joins a LIVE publish gets it and changes counts, never the state; so does one that leaves", async () => {
  const { agent, clusterId, publish, placeEverywhere, get, change, ports } = await start();
  const one = await agent(clusterId);
  const { id } = await publish();
  await one.workOff();
  const two = await agent(clusterId);
  await placeEverywhere();
  expect(await get(id)).toMatchObject({ state: State.LIVE, liveTargets: 1, targets: [{}, {}] });
  await two.workOff();
  expect(await get(id)).toMatchObject({ state: State.LIVE, liveTargets: 2 });
  const three = await agent(clusterId);
  await placeEverywhere();
  await change(three.id, { state: "REVOKED" });
  await transact(ports.engine().db, (work) => agentGone(ports.engine(), work, three.id, { retired: false }));
  const after = await get(id);
  expect(after).toMatchObject({ state: State.LIVE, liveTargets: 2, reason: "" });
  expect(after.targets.find((target) => target.agentId === three.id)).toMatchObject({
    state: State.FAILED,
    reason: "AGENT_REVOKED",
  });
});

test("each agent gets a publish once, however often placement looks", async () => {
  const { agent, clusterId, publish, placeEverywhere, get, db } = await start();
  const one = await agent(clusterId);
  const { id } = await publish();
  await one.workOff();
  const before = (await get(id)).etag;
  await placeEverywhere();
  await Promise.all([placeEverywhere(), placeEverywhere()]);
  expect((await get(id)).etag).toBe(before);
  await agent(clusterId);
  await Promise.all([placeEverywhere(), placeEverywhere(), placeEverywhere()]);
  expect((await get(id)).targets).toHaveLength(2);
  expect(await db.selectFrom("data_planes").select("agent_id").execute()).toHaveLength(2);
});

test("a publish goes to the agents that the gateway's labels match, and to those that get the label later", async () => {
  const { as, agent, clusterId, publish, placeEverywhere, targets, change } = await start();
  await as(GatewayService, "alpha").createGateway({
    gateway: { name: "edge", gatewayClass: "embedded", agentLabels: { line: "2" } },
  });
  const [match, other] = [await agent(clusterId, { labels: { line: "2", room: "a" } }), await agent(clusterId)];
  const { id } = await publish({ gatewayId: "edge" });
  expect(await targets(id)).toEqual([match.id]);
  await change(other.id, { labels: JSON.stringify({ line: "2" }) });
  await placeEverywhere();
  expect(await targets(id)).toEqual([match.id, other.id].sort());
});

test("an agent that lost the label keeps getting what it has; none of it is left behind at an older revision", async () => {
  const { as, agent, clusterId, publish, apply, targets, change, placeEverywhere } = await start();
  await as(GatewayService, "alpha").createGateway({
    gateway: { name: "edge", gatewayClass: "embedded", agentLabels: { line: "2" } },
  });
  const one = await agent(clusterId, { labels: { line: "2" } });
  await publish({ gatewayId: "edge" });
  await one.workOff();
  await change(one.id, { labels: JSON.stringify({}) });
  const second = await publish({ gatewayId: "edge" });
  expect(await targets(second.id)).toEqual([one.id]);
  await apply(manifest("other"));
  const other = await publish({ productId: "other", gatewayId: "edge" });
  await placeEverywhere();
  expect(await targets(other.id)).toEqual([]);
});

test("an agent without the gateway's class gets nothing, nor does one whose cluster restricts it", async () => {
  const { agent, clusterId, publish, get, operator, placeEverywhere, targets } = await start({
    capabilities: ["gateway-class/nginx"],
  });
  await agent(clusterId, { capabilities: ["volumes"] });
  const able = await agent(clusterId);
  const { id, etag } = await publish();
  await placeEverywhere();
  expect(await get(id)).toMatchObject({ state: State.PENDING, reason: "NO_AGENT", etag });
  await operator.updateCluster({
    cluster: { id: clusterId, capabilities: [] },
    updateMask: { paths: ["capabilities"] },
  });
  await placeEverywhere();
  expect(await targets(id)).toEqual([able.id]);
});

test("a cordoned agent gets nothing new and keeps what it has", async () => {
  const { agent, clusterId, publish, apply, get, change, targets, placeEverywhere } = await start();
  const [one, cordoned] = [await agent(clusterId), await agent(clusterId, { cordoned: true })];
  const first = await publish();
  expect(await targets(first.id)).toEqual([one.id]);
  await one.workOff();
  await change(one.id, { cordoned: true });
  const second = await publish();
  await one.workOff();
  expect(await get(second.id)).toMatchObject({ state: State.LIVE, targets: [{ agentId: one.id }] });
  await apply(manifest("other"));
  const other = await publish({ productId: "other" });
  expect(await get(other.id)).toMatchObject({ state: State.PENDING, reason: "NO_AGENT" });
  await change(cordoned.id, { cordoned: false });
  await placeEverywhere();
  expect([await targets(other.id), await targets(second.id)]).toEqual([[cordoned.id], [one.id, cordoned.id].sort()]);
});

test("an inactive cluster places nothing on agents that come, until it is active again", async () => {
  const { agent, clusterId, publish, operator, targets, placeEverywhere } = await start();
  const { id } = await publish();
  const activate = (isActive: boolean) =>
    operator.updateCluster({ cluster: { id: clusterId, isActive }, updateMask: { paths: ["is_active"] } });
  await activate(false);
  const one = await agent(clusterId);
  await placeEverywhere();
  expect(await targets(id)).toEqual([]);
  await activate(true);
  await placeEverywhere();
  expect(await targets(id)).toEqual([one.id]);
});

test("a revoked agent makes a publish that is not yet live FAILED with that reason", async () => {
  const { agent, clusterId, publish, get, change, ports } = await start();
  const [one, two] = [await agent(clusterId), await agent(clusterId)];
  const { id } = await publish();
  await one.workOff();
  await change(two.id, { state: "REVOKED" });
  await transact(ports.engine().db, (work) => agentGone(ports.engine(), work, two.id, { retired: false }));
  expect(await get(id)).toMatchObject({ state: State.FAILED, reason: "AGENT_REVOKED", liveTargets: 1 });
});

test("a failed publish that was left behind at an agent does not come back beside its successor", async () => {
  const { agent, clusterId, publish, apply, get, change, commands } = await start();
  const [one, two] = [await agent(clusterId), await agent(clusterId)];
  const first = await publish();
  await two.workOff();
  const [plane, routes] = await one.claim();
  if (plane === undefined || routes === undefined) throw new Error("two commands were expected");
  await one.succeed(plane);
  await one.fail(routes, "ROUTES_REFUSED");
  await change(one.id, { state: "CONFLICT" }); // nothing new is given to it
  await apply(manifest("hello", ["/v2"]));
  const second = await publish();
  await two.workOff();
  await change(one.id, { state: "ENROLLED" });
  await commands.retryCommand({ id: routes.commandId });
  await one.workOff();
  expect(await get(first.id)).toMatchObject({ state: State.FAILED, supersededBy: "" });
  expect(await get(second.id)).toMatchObject({ state: State.LIVE });
});

test("unpublishing waits for an agent that was revoked, and ends when it is retired", async () => {
  const { agent, clusterId, publish, alpha, get, change, ports, db } = await start();
  const one = await agent(clusterId);
  const { id } = await publish();
  await one.workOff();
  await change(one.id, { state: "REVOKED" });
  await alpha.unpublishProductPublish({ id });
  expect((await get(id)).state).toBe(State.UNPUBLISHING);
  await transact(ports.engine().db, (work) => agentGone(ports.engine(), work, one.id, { retired: true }));
  expect(await get(id)).toMatchObject({ state: State.UNPUBLISHED, targets: [{ reason: "AGENT_RETIRED" }] });
  expect(await db.selectFrom("data_planes").selectAll().execute()).toEqual([]);
  const open = await db.selectFrom("command_states").select("state").where("state", "=", "READY").execute();
  expect(open).toEqual([]);
});

test("a publish to an agent that is away says so and since when", async () => {
  const { agent, clusterId, publish, get, db } = await start();
  const one = await agent(clusterId);
  await db
    .updateTable("sessions")
    .set({ state: "ENDED", ended_at: new Date() })
    .where("agent_id", "=", one.id)
    .execute();
  const { id } = await publish();
  const shown = await get(id);
  expect(shown).toMatchObject({ state: State.PENDING, reason: "AGENT_OFFLINE", conditions: ["AGENT_OFFLINE"] });
  expect(shown.targets[0]?.message).toContain("offline since");
});

test("a changed gateway is a new generation of each of its data planes, and disturbs no routes", async () => {
  const { as, agent, clusterId, publish, get } = await start();
  const one = await agent(clusterId);
  const { id, gatewayId } = await publish();
  await one.workOff();
  await as(GatewayService, "alpha").updateGateway({
    gateway: { id: gatewayId, listeners: [{ name: "http", protocol: "HTTP", port: 9090 }] },
    updateMask: { paths: ["listeners"] },
  });
  const [plane, ...more] = await one.claim();
  if (plane === undefined) throw new Error("nothing to claim");
  expect(more).toEqual([]);
  expect(plane.generation).toBe(2);
  expect((await one.spec(plane)).dataPlane?.listeners).toMatchObject([{ port: 9090 }]);
  expect((await get(id)).state).toBe(State.LIVE);
  await one.fail(plane, "PORT_TAKEN"); // the old listeners serve on
  expect(await get(id)).toMatchObject({ state: State.LIVE, conditions: ["DATA_PLANE_FAILED"] });
});

test("deleting a cluster with cascade unpublishes what is in it, and then it is gone", async () => {
  const { agent, clusterId, publish, operator, apply, get, placeEverywhere, db, alpha } = await start();
  const one = await agent(clusterId);
  const first = await publish();
  await one.workOff();
  await apply(manifest("other"));
  await publish({ productId: "other", draft: true });
  expect(await reasonOf(operator.deleteCluster({ id: clusterId }))).toBe("CLUSTER_NOT_EMPTY");
  await operator.deleteCluster({ id: clusterId, cascade: true });
  expect((await get(first.id)).state).toBe(State.UNPUBLISHING);
  await agent(clusterId);
  await placeEverywhere();
  expect(await one.workOff()).toEqual(["routes gone", "data plane gone"]);
  // What runDeletions does at an interval; asked again, it goes on where it was.
  await operator.deleteCluster({ id: clusterId, cascade: true });
  expect(await reasonOf(operator.getCluster({ id: clusterId }))).toBe("NOT_FOUND");
  expect(await reasonOf(alpha.getProductPublish({ id: first.id }))).toBe("NOT_FOUND");
  expect(await db.selectFrom("agents").select("id").execute()).toEqual([]);
});
