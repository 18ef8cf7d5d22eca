/** The life of publishes over their real calls: agents are rows, commands move by the engine's own statements. */
import { toJson } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { restStatus } from "@bowline/contract";
import {
  type ProductPublish,
  ProductPublish_State as State,
  ProductPublishSchema,
  ProductPublishService,
} from "@bowline/contract/products";
import { testDatabase } from "@bowline/testing";
import { reasonOf } from "../platform/in-process.ts";
import { manifest, startPublishing } from "./publishes.fixture.ts";

/** A product that is live in a cluster with one agent. */
async function live() {
  const api = await startPublishing((await testDatabase()).db);
  const clusterId = await api.cluster("local");
  const agent = await api.agent(clusterId, { name: "one" });
  await api.apply(manifest("hello"));
  const publish = (more: object = {}): Promise<ProductPublish> =>
    api.alpha.createProductPublish({ productId: "hello", clusterId: "local", ...more });
  const first = await publish();
  await agent.workOff();
  /** Publishes the product with other routes. */
  const next = async (path: string): Promise<ProductPublish> => {
    await api.apply(manifest("hello", [path]));
    return publish();
  };
  const get = (id: string) => api.alpha.getProductPublish({ id });
  return { ...api, clusterId, agent, publish, next, first, get };
}

test("without an agent a publish waits and says NO_AGENT; it follows when one appears", async () => {
  const { alpha, apply, cluster, agent, placeEverywhere } = await startPublishing((await testDatabase()).db);
  const clusterId = await cluster("local");
  await apply(manifest("hello"));
  const { id, ...made } = await alpha.createProductPublish({ productId: "hello", clusterId });
  expect(made).toMatchObject({ state: State.PENDING, reason: "NO_AGENT", conditions: ["NO_AGENT"], targets: [] });
  await placeEverywhere();
  const one = await agent(clusterId);
  await placeEverywhere();
  expect(await alpha.getProductPublish({ id })).toMatchObject({ state: State.PENDING, reason: "", conditions: [] });
  expect(await one.workOff()).toEqual(["data plane", "routes"]);
  const done = await alpha.getProductPublish({ id });
  expect(done).toMatchObject({ state: State.LIVE, liveTargets: 1, reason: "", message: "" });
  expect(done.targets).toMatchObject([
    { agentId: one.id, state: State.LIVE, servingRevision: 1, progressPercent: 100 },
  ]);
  expect(done.liveAt).toBeDefined();
});

test("a publish goes PENDING, DISPATCHED, APPLYING, LIVE with its command", async () => {
  const { next, agent, stateOf } = await live();
  const { id, state } = await next("/v2");
  expect(state).toBe(State.PENDING);
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing to claim");
  expect(command.productPublishId).toBe(id);
  expect(await stateOf(id)).toBe("DISPATCHED");
  await agent.receive(command);
  expect(await stateOf(id)).toBe("APPLYING");
  await agent.succeed(command);
  expect(await stateOf(id)).toBe("LIVE");
});

test("the first publish brings a data plane of its own; a second product shares it", async () => {
  const { alpha, apply, agent, db } = await live();
  await apply(manifest("other"));
  const { id } = await alpha.createProductPublish({ productId: "other", clusterId: "local" });
  expect(await agent.workOff()).toEqual(["routes"]);
  const planes = await db.selectFrom("data_planes").select(["deployment_id", "removing"]).execute();
  const attached = await db.selectFrom("route_attachments").select("data_plane_deployment_id").execute();
  expect(planes).toHaveLength(1);
  expect(attached.map((row) => row.data_plane_deployment_id)).toEqual([
    planes[0]?.deployment_id,
    planes[0]?.deployment_id,
  ]);
  expect((await alpha.getProductPublish({ id })).state).toBe(State.LIVE);
});

test("routes name their data plane, their publish and revision, and only the API services that were asked for", async () => {
  const { alpha, apply, cluster, agent } = await startPublishing((await testDatabase()).db);
  const clusterId = await cluster("local");
  const one = await agent(clusterId);
  const two = manifest("two");
  await apply({ name: "two", apiServices: [...two.apiServices, ...manifest("three").apiServices] });
  const made = await alpha.createProductPublish({ productId: "two", clusterId, apiServices: ["three", "three"] });
  expect(made.apiServices).toEqual(["three"]);
  const [plane, routes] = await one.claim();
  if (plane === undefined || routes === undefined) throw new Error("two commands were expected");
  expect((await one.spec(plane)).dataPlane).toMatchObject({ gatewayClass: "embedded", gatewayId: made.gatewayId });
  expect((await one.spec(routes)).routes).toMatchObject({
    dataPlaneDeploymentId: plane.deploymentId,
    productPublishId: made.id,
    product: "two",
    revision: 1,
    apiServices: [{ name: "three" }],
  });
  const all = await alpha.createProductPublish({ productId: "two", clusterId });
  expect(all.apiServices).toEqual(["three", "two"]);
});

test("a draft answers 201 and reaches no agent; deployed it is PENDING with 202, and only once", async () => {
  const { alpha, agent, publish, first, stateOf, db } = await live();
  const draft = await publish({ draft: true });
  expect(draft.state).toBe(State.DRAFT);
  const status = (answer: ProductPublish) =>
    restStatus(ProductPublishService.method.createProductPublish, {
      ...(toJson(ProductPublishSchema, answer) as object),
    });
  expect(status(draft)).toBe(201);
  expect(await agent.claim()).toEqual([]);
  expect(await stateOf(first.id)).toBe("LIVE");
  const deployed = await alpha.deployProductPublish({ id: draft.id });
  expect(deployed.state).toBe(State.PENDING);
  expect(status(deployed)).toBe(202);
  expect(await stateOf(first.id)).toBe("SUPERSEDED");
  expect(await reasonOf(alpha.deployProductPublish({ id: draft.id }))).toBe("PUBLISH_NOT_DRAFT");
  const audits = await db
    .selectFrom("audit_events")
    .select("action")
    .where("resource_id", "=", draft.id)
    .orderBy("id")
    .execute();
  expect(audits.map((row) => row.action)).toEqual(["product-publish.create", "product-publish.deploy"]);
});

test("a draft that is deployed late is the newest, and one that is thrown away is not", async () => {
  const { alpha, publish, next, agent, stateOf } = await live();
  const late = await publish({ draft: true });
  const between = await next("/between");
  await agent.workOff();
  await alpha.deployProductPublish({ id: late.id });
  await agent.workOff();
  expect(await reasonOf(alpha.unpublishProductPublish({ id: between.id }))).toBe("NOT_NEWEST_PUBLISH");
  const thrown = await publish({ draft: true });
  expect((await alpha.unpublishProductPublish({ id: thrown.id })).state).toBe(State.UNPUBLISHED);
  expect(await reasonOf(alpha.deployProductPublish({ id: thrown.id }))).toBe("PUBLISH_NOT_DRAFT");
  expect(await stateOf(late.id)).toBe("LIVE");
  expect((await alpha.unpublishProductPublish({ id: late.id })).state).toBe(State.UNPUBLISHING);
});

test("a newer publish supersedes what is on its way or live, and its revision is served once it succeeded", async () => {
  const { first, next, agent, get } = await live();
  const second = await next("/v2");
  expect(await get(first.id)).toMatchObject({ state: State.SUPERSEDED, supersededBy: second.id });
  expect((await get(second.id)).targets).toMatchObject([{ servingRevision: 1 }]);
  const third = await next("/v3");
  expect(await get(second.id)).toMatchObject({ state: State.SUPERSEDED, supersededBy: third.id });
  await agent.workOff();
  expect(await get(third.id)).toMatchObject({ state: State.LIVE, targets: [{ generation: 3, servingRevision: 3 }] });
});

test("over several agents the worst decides", async () => {
  const { alpha, apply, cluster, agent, stateOf } = await startPublishing((await testDatabase()).db);
  const clusterId = await cluster("local");
  const [one, two] = [await agent(clusterId), await agent(clusterId)];
  await apply(manifest("hello"));
  const { id } = await alpha.createProductPublish({ productId: "hello", clusterId });
  await one.workOff();
  expect(await alpha.getProductPublish({ id })).toMatchObject({ state: State.PENDING, liveTargets: 1 });
  await two.claim();
  expect(await stateOf(id)).toBe("DISPATCHED");
  const second = await alpha.createProductPublish({ productId: "hello", clusterId });
  await one.workOff();
  expect(await stateOf(second.id)).toBe("PENDING"); // two still has the first
});

test("a publish that fails leaves the one before it serving; a retry of its command makes it live", async () => {
  const { first, next, agent, get, commands } = await live();
  const second = await next("/v2");
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing to claim");
  await agent.fail(command, "ROUTES_REFUSED");
  expect(await get(second.id)).toMatchObject({
    state: State.FAILED,
    reason: "ROUTES_REFUSED",
    targets: [{ state: State.FAILED, reason: "ROUTES_REFUSED", servingRevision: 1 }],
  });
  expect((await get(first.id)).state).toBe(State.SUPERSEDED);
  const again = await commands.retryCommand({ id: command.commandId });
  expect(await get(second.id)).toMatchObject({
    state: State.PENDING,
    reason: "",
    targets: [{ commandId: again.id, generation: 3, state: State.PENDING }],
  });
  await agent.workOff();
  expect(await get(second.id)).toMatchObject({ state: State.LIVE, targets: [{ servingRevision: 2 }] });
});

test("a command of a superseded publish is not tried again", async () => {
  const { next, agent, commands, stateOf } = await live();
  const second = await next("/v2");
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing to claim");
  await agent.fail(command, "ROUTES_REFUSED");
  const third = await next("/v3");
  expect(await reasonOf(commands.retryCommand({ id: command.commandId }))).toBe("NEWER_GENERATION");
  await agent.workOff();
  expect([await stateOf(second.id), await stateOf(third.id)]).toEqual(["FAILED", "LIVE"]);
});

test("a reconciled publish stays LIVE meanwhile; one that waits becomes LIVE by the new command", async () => {
  const { first, next, agent, get, deployments, stateOf } = await live();
  const deploymentId = (await get(first.id)).targets[0]?.deploymentId ?? "";
  await deployments.reconcileDeployment({ id: deploymentId });
  expect(await get(first.id)).toMatchObject({ state: State.LIVE, liveTargets: 1 });
  await agent.workOff();
  expect(await get(first.id)).toMatchObject({ state: State.LIVE, liveTargets: 1 });
  const second = await next("/v2");
  await deployments.reconcileDeployment({ id: deploymentId });
  expect(await stateOf(second.id)).toBe("PENDING");
  await agent.workOff();
  expect(await get(second.id)).toMatchObject({
    state: State.LIVE,
    targets: [{ state: State.LIVE, servingRevision: 2 }],
  });
});

test("a data plane that failed gets another try with the next publish", async () => {
  const { alpha, apply, cluster, agent, stateOf } = await startPublishing((await testDatabase()).db);
  const clusterId = await cluster("local");
  const one = await agent(clusterId);
  await apply(manifest("hello"));
  const first = await alpha.createProductPublish({ productId: "hello", clusterId });
  const [plane, routes] = await one.claim();
  if (plane === undefined || routes === undefined) throw new Error("two commands were expected");
  await one.fail(plane, "PORT_TAKEN");
  expect((await alpha.getProductPublish({ id: first.id })).conditions).toContain("DATA_PLANE_FAILED");
  await one.fail(routes, "DATA_PLANE_NOT_READY");
  const shown = await alpha.getProductPublish({ id: first.id });
  expect(shown).toMatchObject({ state: State.FAILED, reason: "DATA_PLANE_NOT_READY" });
  expect(shown.targets[0]?.message).toContain("PORT_TAKEN");
  const second = await alpha.createProductPublish({ productId: "hello", clusterId });
  expect(await one.workOff()).toEqual(["data plane", "routes"]);
  expect(await stateOf(second.id)).toBe("LIVE");
});

test("the newest publish rolls back to the one before it that was live, an older one to itself", async () => {
  const { alpha, first, next, agent, get } = await live();
  expect(await reasonOf(alpha.rollbackProductPublish({ id: first.id }))).toBe("NOTHING_TO_ROLL_BACK_TO");
  const second = await next("/v2");
  await agent.workOff();
  const third = await next("/v3");
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing to claim");
  await agent.fail(command, "ROUTES_REFUSED");
  const back = await alpha.rollbackProductPublish({ id: third.id });
  expect(back).toMatchObject({ state: State.PENDING, revision: 2, rollbackOf: second.id });
  await agent.workOff();
  expect(await get(back.id)).toMatchObject({ state: State.LIVE, targets: [{ servingRevision: 2 }] });
  const further = await alpha.rollbackProductPublish({ id: first.id });
  expect(further).toMatchObject({ revision: 1, rollbackOf: first.id });
  expect((await get(back.id)).state).toBe(State.SUPERSEDED);
});

test("unpublishing removes the routes, the last one the data plane too; asked twice it is asked once", async () => {
  const { alpha, apply, agent, first, get, db } = await live();
  await apply(manifest("other"));
  const other = await alpha.createProductPublish({ productId: "other", clusterId: "local" });
  await agent.workOff();
  expect((await alpha.unpublishProductPublish({ id: first.id })).state).toBe(State.UNPUBLISHING);
  await alpha.unpublishProductPublish({ id: first.id });
  expect(await agent.workOff()).toEqual(["routes gone"]);
  expect(await get(first.id)).toMatchObject({ state: State.UNPUBLISHED, targets: [{ state: State.UNPUBLISHED }] });
  expect((await get(other.id)).state).toBe(State.LIVE);
  await alpha.unpublishProductPublish({ id: other.id });
  expect(await agent.workOff()).toEqual(["routes gone", "data plane gone"]);
  expect((await get(other.id)).state).toBe(State.UNPUBLISHED);
  expect((await alpha.unpublishProductPublish({ id: other.id })).state).toBe(State.UNPUBLISHED);
  expect(await db.selectFrom("data_planes").selectAll().execute()).toEqual([]);
  expect(await db.selectFrom("route_attachments").selectAll().execute()).toEqual([]);
});

test("what was never given to an agent is unpublished at once", async () => {
  const { alpha, apply, cluster } = await startPublishing((await testDatabase()).db);
  await apply(manifest("hello"));
  const { id } = await alpha.createProductPublish({ productId: "hello", clusterId: await cluster("local") });
  expect((await alpha.unpublishProductPublish({ id })).state).toBe(State.UNPUBLISHED);
});

test("only the newest publish is unpublished, also after it failed", async () => {
  const { alpha, first, next, agent, get } = await live();
  const second = await next("/v2");
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing to claim");
  await agent.receive(command);
  await agent.fail(command, "ROUTES_REFUSED");
  expect(await reasonOf(alpha.unpublishProductPublish({ id: first.id }))).toBe("NOT_NEWEST_PUBLISH");
  await alpha.unpublishProductPublish({ id: second.id });
  expect(await agent.workOff()).toEqual(["routes gone", "data plane gone"]);
  expect((await get(second.id)).state).toBe(State.UNPUBLISHED);
});

test("unpublishing ends what is in flight first; a removal that fails is tried until it succeeds", async () => {
  const { alpha, next, agent, get, db } = await live();
  const second = await next("/v2");
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing to claim");
  await agent.receive(command);
  await alpha.unpublishProductPublish({ id: second.id });
  await agent.succeed(command); // too late to matter
  expect((await get(second.id)).state).toBe(State.UNPUBLISHING);
  const [removal] = await agent.claim();
  if (removal === undefined) throw new Error("nothing to claim");
  await agent.fail(removal, "START_FAILED");
  expect(await get(second.id)).toMatchObject({
    state: State.UNPUBLISHING,
    targets: [{ state: State.UNPUBLISHING, reason: "START_FAILED" }],
  });
  await db.updateTable("command_states").set({ state: "READY" }).where("command_id", "=", removal.commandId).execute();
  expect(await agent.workOff()).toEqual(["routes gone", "data plane gone"]);
  expect((await get(second.id)).state).toBe(State.UNPUBLISHED);
});

test("publishing again after unpublishing makes new deployments, while the old ones still go", async () => {
  const { alpha, first, publish, agent, get, db } = await live();
  const before = (await get(first.id)).targets[0]?.deploymentId;
  await alpha.unpublishProductPublish({ id: first.id });
  const again = await publish();
  const after = (await get(again.id)).targets[0]?.deploymentId;
  expect(after).not.toBe(before);
  await agent.workOff();
  expect([(await get(first.id)).state, (await get(again.id)).state]).toEqual([State.UNPUBLISHED, State.LIVE]);
  expect(await db.selectFrom("route_attachments").select("deployment_id").execute()).toEqual([
    { deployment_id: after },
  ]);
  expect(await db.selectFrom("data_planes").select("removing").execute()).toEqual([{ removing: false }]);
});

test("two publishes of one product at once come one after the other", async () => {
  const { publish, agent, db } = await live();
  const made = await Promise.all([publish(), publish(), publish()]);
  const states = await db
    .selectFrom("product_publishes")
    .select("state")
    .where(
      "id",
      "in",
      made.map((each) => each.id),
    )
    .orderBy("deployed_at")
    .execute();
  expect(states.map((row) => row.state)).toEqual(["SUPERSEDED", "SUPERSEDED", "PENDING"]);
  await agent.workOff();
});

test("results and publishes of one product at once leave nothing half done", async () => {
  const { publish, agent, db } = await live();
  for (let round = 0; round < 10; round += 1) {
    const claimed = await agent.claim();
    await Promise.all([publish(), ...claimed.map((command) => agent.succeed(command))]);
  }
  await agent.workOff();
  const states = await db.selectFrom("product_publishes").select("state").orderBy("deployed_at").execute();
  expect(states.map((row) => row.state)).toEqual([...Array<string>(10).fill("SUPERSEDED"), "LIVE"]);
});
