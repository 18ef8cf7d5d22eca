/** Publishes that go from agent to agent, and those that are taken back. */
import { expect, test } from "@jest/globals";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { sweep } from "../commands/index.ts";
import { manifest, startPublishing, type TestAgent } from "./publishes.fixture.ts";
import { revertEverywhere } from "./reverts.ts";

async function start(agents: number) {
  const api = await startPublishing((await testDatabase()).db);
  const clusterId = await api.cluster("local");
  await api.apply(manifest("hello"));
  const publish = (rollout: object = {}) =>
    api.alpha.createProductPublish({ productId: "hello", clusterId: "local", rollout });
  const here: TestAgent[] = [];
  for (let count = 0; count < agents; count += 1) here.push(await api.agent(clusterId));
  const online = (agent: TestAgent | undefined, state: "SERVING" | "ENDED") =>
    api.db
      .updateTable("sessions")
      .set({ state })
      .where("agent_id", "=", agent?.id ?? "")
      .execute();
  return {
    ...api,
    ...{ clusterId, publish, here, online },
    get: (id: string) => api.alpha.getProductPublish({ id }),
    /** Takes and carries out what every agent has now; says how many had something. */
    workOff: async () => {
      const worked = await Promise.all(here.map((agent) => agent.workOff()));
      return worked.filter((done) => done.length > 0).length;
    },
    revertEverywhere: () => revertEverywhere(api.ports),
    /** Two days pass. */
    longAfter: async () => {
      const before = sql<Date>`now() - interval '2 days'`;
      await api.db.updateTable("command_states").set({ updated_at: before }).execute();
      await api.db.updateTable("sessions").set({ ended_at: before }).where("state", "=", "ENDED").execute();
    },
    newest: async () => (await api.alpha.listProductPublishes({})).productPublishes[0],
  };
}

test("with max_parallel 1 the next agent gets it when the one before has it; until all have it, it is not LIVE", async () => {
  const { publish, get, workOff, placeEverywhere } = await start(3);
  const { id, agentsToCome, rollout } = await publish({ maxParallel: 1 });
  expect({ agentsToCome, rollout }).toMatchObject({ agentsToCome: 2, rollout: { maxParallel: 1, autoRevert: false } });
  await placeEverywhere(); // not its turn
  expect((await get(id)).targets).toHaveLength(1);
  for (const toCome of [2, 1]) {
    expect(await workOff()).toBe(1);
    expect(await get(id)).toMatchObject({ state: State.PENDING, reason: "ROLLING_OUT", agentsToCome: toCome });
    await placeEverywhere();
    expect(await get(id)).toMatchObject({ reason: "", agentsToCome: toCome - 1 });
  }
  expect(await workOff()).toBe(1);
  expect(await get(id)).toMatchObject({ state: State.LIVE, liveTargets: 3, agentsToCome: 0 });
});

test("an agent that fails keeps the publish from those that follow, which serve on what they have", async () => {
  const { publish, get, workOff, here, placeEverywhere } = await start(3);
  await publish();
  expect(await workOff()).toBe(3);
  const { id, targets } = await publish({ maxParallel: 2 });
  const [first] = targets;
  const failing = here.find((agent) => agent.id === first?.agentId);
  const [command] = (await failing?.claim()) ?? [];
  if (command === undefined) throw new Error("nothing to fail");
  await failing?.receive(command);
  await failing?.fail(command, "SPEC_INVALID");
  await workOff();
  await placeEverywhere();
  const after = await get(id);
  expect(after).toMatchObject({ state: State.FAILED, reason: "SPEC_INVALID", liveTargets: 1, agentsToCome: 1 });
  expect(after.targets).toHaveLength(2);
});

test("who is away holds up nobody, comes last, and gets it for when it returns", async () => {
  const { publish, get, workOff, here, online, placeEverywhere } = await start(3);
  await online(here[0], "ENDED");
  const { id, targets } = await publish({ maxParallel: 1 });
  expect(targets[0]?.agentId).not.toBe(here[0]?.id);
  for (let round = 0; round < 2; round += 1) {
    await Promise.all(here.slice(1).map((agent) => agent.workOff()));
    await placeEverywhere();
  }
  expect(await get(id)).toMatchObject({
    state: State.PENDING,
    reason: "AGENT_OFFLINE",
    liveTargets: 2,
    agentsToCome: 0,
  });
  await online(here[0], "SERVING");
  expect(await workOff()).toBe(1);
  expect(await get(id)).toMatchObject({ state: State.LIVE, liveTargets: 3 });
});

test("an agent that leaves while others wait for it keeps nobody waiting", async () => {
  const { publish, get, workOff, here, db, placeEverywhere } = await start(2);
  const { id, targets } = await publish({ maxParallel: 1 });
  expect(await workOff()).toBe(1);
  const other = here.find((agent) => agent.id !== targets[0]?.agentId);
  await db
    .updateTable("agents")
    .set({ state: "REVOKED" })
    .where("id", "=", other?.id ?? "")
    .execute();
  await placeEverywhere();
  expect(await get(id)).toMatchObject({ state: State.LIVE, liveTargets: 1, agentsToCome: 0 });
});

async function failEverywhere(agents: readonly TestAgent[]): Promise<void> {
  for (const agent of agents) {
    for (const command of await agent.claim()) {
      await agent.receive(command);
      await agent.fail(command, "SPEC_INVALID");
    }
  }
}

test("a failed publish that asks for it is taken back once, at all agents at once, whoever looks how often", async () => {
  const api = await start(2);
  const first = await api.publish();
  await api.workOff();
  await api.apply(manifest("hello", ["/new"]));
  const { id } = await api.publish({ maxParallel: 1, autoRevert: true });
  await failEverywhere(api.here);
  expect((await api.get(id)).state).toBe(State.FAILED);
  await Promise.all([api.revertEverywhere(), api.revertEverywhere()]);
  await api.revertEverywhere();
  const newest = await api.newest();
  expect(newest).toMatchObject({ rollbackOf: first.id, revision: first.revision, createdBy: "system" });
  expect(newest?.targets).toHaveLength(2);
  expect((await api.alpha.listProductPublishes({})).productPublishes).toHaveLength(3);
  await failEverywhere(api.here);
  await api.revertEverywhere();
  expect((await api.newest())?.id).toBe(newest?.id); // a rollback is not taken back
});

test("what failed stays where nothing was live before, where it doesn't ask, and where something newer is", async () => {
  const api = await start(1);
  await api.publish({ autoRevert: true });
  await failEverywhere(api.here);
  await api.revertEverywhere();
  expect((await api.alpha.listProductPublishes({})).productPublishes).toHaveLength(1);
  await api.publish();
  await api.workOff();
  await api.apply(manifest("hello", ["/new"]));
  await api.publish();
  await failEverywhere(api.here);
  await api.revertEverywhere();
  expect((await api.alpha.listProductPublishes({})).productPublishes).toHaveLength(3);
  await api.publish({ autoRevert: true });
  await failEverywhere(api.here);
  await api.publish();
  await api.revertEverywhere();
  expect((await api.alpha.listProductPublishes({})).productPublishes).toHaveLength(5);
});

test("what failed is taken back where the cluster's grant is gone since, and it names what took its place", async () => {
  const api = await start(1);
  const first = await api.publish();
  await api.workOff();
  await api.apply(manifest("hello", ["/new"]));
  const { id } = await api.publish({ autoRevert: true });
  await api.operator.ungrantCluster({ id: "local", organisationId: "*" });
  await failEverywhere(api.here);
  expect(await api.get(id)).toMatchObject({ state: State.FAILED, conditions: ["REVERTING"], supersededBy: "" });
  await api.revertEverywhere();
  const newest = await api.newest();
  expect(newest).toMatchObject({ rollbackOf: first.id, organisationId: first.organisationId });
  expect(await api.get(id)).toMatchObject({ state: State.FAILED, conditions: [], supersededBy: newest?.id });
});

test("one that went away in the middle of it is waited for, for a minute: what makes agents crash takes one of them", async () => {
  const { db, publish, get, here, online, longAfter, placeEverywhere } = await start(2);
  const { id } = await publish({ maxParallel: 1 });
  await online(here[0], "ENDED");
  await db
    .updateTable("sessions")
    .set({ ended_at: sql<Date>`now()` })
    .where("state", "=", "ENDED")
    .execute();
  await placeEverywhere();
  expect((await get(id)).targets).toHaveLength(1);
  await longAfter();
  await placeEverywhere();
  expect((await get(id)).targets).toHaveLength(2);
});

test("an agent that stays away, or leaves, takes nothing back from the others", async () => {
  const api = await start(3);
  await api.publish();
  await api.workOff();
  await api.apply(manifest("hello", ["/new"]));
  await api.online(api.here[0], "ENDED");
  const { id } = await api.publish({ autoRevert: true });
  await Promise.all(api.here.slice(1).map((agent) => agent.workOff()));
  await api.longAfter();
  expect(await sweep(api.ports.engine())).toBe(1);
  const { targets, ...after } = await api.get(id);
  expect(after).toMatchObject({ state: State.FAILED, reason: "OFFLINE_LIFE_EXCEEDED", conditions: ["AGENT_OFFLINE"] });
  expect(targets.filter(({ state }) => state === State.LIVE)).toHaveLength(2);
  await api.revertEverywhere();
  expect((await api.newest())?.id).toBe(id);
});

test("what was removed does not come back", async () => {
  const api = await start(1);
  const { id: first } = await api.publish();
  await api.workOff();
  await api.apply(manifest("hello", ["/new"]));
  const { id: second } = await api.publish();
  await api.workOff();
  await api.alpha.unpublishProductPublish({ id: second });
  await api.workOff();
  await api.apply(manifest("hello", ["/newest"]));
  const { id } = await api.publish({ autoRevert: true });
  await failEverywhere(api.here);
  await api.revertEverywhere();
  expect(await api.get(id)).toMatchObject({ state: State.FAILED, conditions: ["DATA_PLANE_FAILED"], supersededBy: "" });
  expect((await api.newest())?.id).toBe(id);
  expect((await api.alpha.rollbackProductPublish({ id })).rollbackOf).not.toBe(first); // a person may want it
});

test("where what was live is refused by now that is said, and not tried again", async () => {
  const api = await start(1);
  await api.operator.updateCluster({
    cluster: { id: "local", policy: { allowPrivateBackends: true } },
    updateMask: { paths: ["policy.allow_private_backends"] },
  });
  await api.apply(manifest("hello", ["/hello"], "http://10.0.0.5:80"));
  await api.publish();
  await api.workOff();
  await api.apply(manifest("hello", ["/new"]));
  const { id } = await api.publish({ autoRevert: true });
  await api.operator.updateCluster({
    cluster: { id: "local", policy: { allowPrivateBackends: false } },
    updateMask: { paths: ["policy.allow_private_backends"] },
  });
  await failEverywhere(api.here);
  await api.revertEverywhere();
  expect(await api.get(id)).toMatchObject({
    ...{ state: State.FAILED, reason: "SPEC_INVALID", conditions: [], rollout: { autoRevert: false } },
    message: expect.stringContaining("it cannot be taken back: "),
  });
});
