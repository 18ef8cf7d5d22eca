/** What is refused before anything is enqueued, and that nothing of it stays. */
import { expect, test } from "@jest/globals";
import { ClusterService } from "@bowline/contract/clusters";
import { ProductPublish_State as State, ProductPublishService } from "@bowline/contract/products";
import { testDatabase } from "@bowline/testing";
import { reasonOf } from "../platform/in-process.ts";
import { manifest, startPublishing } from "./publishes.fixture.ts";

async function start(clusterFields: object = {}, grantedTo = ["*"]) {
  const api = await startPublishing((await testDatabase()).db);
  const clusterId = await api.cluster("local", clusterFields, grantedTo);
  const agent = await api.agent(clusterId);
  await api.apply(manifest("hello"));
  const publish = (more: object = {}, who = "alpha") =>
    api.as(ProductPublishService, who).createProductPublish({ productId: "hello", clusterId: "local", ...more });
  return { ...api, clusterId, agent, publish };
}

/** A second product that claims a route of the first. */
async function conflicting() {
  const api = await start();
  await api.apply(manifest("rival", ["/rival", "/hello"]));
  const rival = (more: object = {}) => api.publish({ productId: "rival", ...more });
  return { ...api, rival };
}

test("two products that claim the same match on a gateway: the later one is refused and told the other's name", async () => {
  const { publish, rival, db } = await conflicting();
  await publish();
  const refusal = await rival().catch((error: unknown) => error);
  expect(await reasonOf(Promise.reject(refusal))).toBe("ROUTE_CONFLICT");
  expect(String(refusal)).toContain("Product hello answers on");
  expect(await db.selectFrom("product_publishes").select("state").execute()).toEqual([{ state: "PENDING" }]);
});

test("the same routes on another cluster are no conflict", async () => {
  const { publish, rival, cluster } = await conflicting();
  await cluster("elsewhere");
  await publish();
  expect((await rival({ clusterId: "elsewhere" })).state).toBe(State.PENDING);
});

test("a draft that conflicts by the time it is deployed is refused then", async () => {
  const { publish, rival, alpha, stateOf } = await conflicting();
  const draft = await rival({ draft: true });
  await publish();
  expect(await reasonOf(alpha.deployProductPublish({ id: draft.id }))).toBe("ROUTE_CONFLICT");
  expect(await stateOf(draft.id)).toBe("DRAFT");
});

test("what still serves because its successor failed conflicts, and so does the one that failed", async () => {
  const { publish, rival, apply, agent, alpha } = await conflicting();
  await publish();
  await agent.workOff();
  await apply(manifest("hello", ["/moved"]));
  const second = await publish();
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing to claim");
  await agent.fail(command, "ROUTES_REFUSED");
  expect(await reasonOf(rival())).toBe("ROUTE_CONFLICT"); // /hello, served by revision 1
  await apply(manifest("rival", ["/moved"]));
  expect(await reasonOf(rival())).toBe("ROUTE_CONFLICT"); // /moved may be tried again
  await alpha.unpublishProductPublish({ id: second.id });
  expect((await rival()).state).toBe(State.PENDING);
});

test("two conflicting products at once: one is published", async () => {
  const { publish, rival } = await conflicting();
  await publish({ draft: true }); // the default gateway is there
  const reasons = await Promise.all([reasonOf(publish()), reasonOf(rival())]);
  expect(reasons.sort()).toEqual(["ROUTE_CONFLICT", "ok"]);
});

test("a backend inside the place's network needs the cluster's policy, also when a draft is deployed", async () => {
  const { publish, apply, operator, clusterId, alpha } = await start();
  await apply(manifest("hello", ["/hello"], "http://127.0.0.1:9101"));
  expect(await reasonOf(publish())).toBe("PRIVATE_BACKEND");
  const allow = (allowPrivateBackends: boolean) =>
    operator.updateCluster({
      cluster: { id: clusterId, policy: { allowPrivateBackends } },
      updateMask: { paths: ["policy.allow_private_backends"] },
    });
  await allow(true);
  expect((await publish()).state).toBe(State.PENDING);
  const draft = await publish({ draft: true });
  await allow(false);
  expect(await reasonOf(alpha.deployProductPublish({ id: draft.id }))).toBe("PRIVATE_BACKEND");
});

test("a cluster that is not granted is not known; one that is inactive takes nothing new", async () => {
  const { publish, operator, clusterId, organisations, alpha } = await start({}, []);
  expect(await reasonOf(publish())).toBe("NOT_FOUND");
  await operator.grantCluster({ id: clusterId, organisationId: organisations.get("beta") ?? "" });
  expect(await reasonOf(publish())).toBe("NOT_FOUND");
  // An admin of another organisation knows of it; the product's organisation has no grant.
  expect(await reasonOf(publish({}, "beta/admin"))).toBe("CLUSTER_NOT_GRANTED");
  await operator.grantCluster({ id: clusterId, organisationId: "*" });
  const draft = await publish({ draft: true });
  await operator.updateCluster({ cluster: { id: clusterId, isActive: false }, updateMask: { paths: ["is_active"] } });
  expect(await reasonOf(publish())).toBe("CLUSTER_INACTIVE");
  expect(await reasonOf(alpha.deployProductPublish({ id: draft.id }))).toBe("CLUSTER_INACTIVE");
});

test("a cluster that is being deleted takes nothing new", async () => {
  const { publish, as, agent } = await start();
  await publish();
  await agent.workOff();
  await as(ClusterService, "alpha/operator").deleteCluster({ id: "local", cascade: true });
  expect(await reasonOf(publish())).toBe("CLUSTER_DELETING");
});

test("a grant that was taken away keeps a draft from being deployed and a rollback from being made", async () => {
  const { publish, operator, clusterId, alpha, agent } = await start();
  await publish();
  await agent.workOff();
  const draft = await publish({ draft: true });
  await operator.ungrantCluster({ id: clusterId, organisationId: "*" });
  expect(await reasonOf(alpha.deployProductPublish({ id: draft.id }))).toBe("NOT_FOUND");
  expect(await reasonOf(alpha.rollbackProductPublish({ id: draft.id }))).toBe("NOT_FOUND");
});

test("another organisation's product, cluster, gateway, revision and publish are as if they weren't there", async () => {
  const { publish, as, apply, agent } = await start();
  const { id, gatewayId, revisionId } = await publish();
  await agent.workOff();
  const beta = as(ProductPublishService, "beta");
  expect(await reasonOf(publish({}, "beta"))).toBe("NOT_FOUND");
  await apply(manifest("theirs"), "beta");
  expect(await reasonOf(publish({ productId: "theirs", gatewayId }, "beta"))).toBe("NOT_FOUND");
  expect(await reasonOf(publish({ productId: "theirs", revisionId }, "beta"))).toBe("NOT_FOUND");
  for (const call of [
    beta.getProductPublish({ id }),
    beta.deployProductPublish({ id }),
    beta.rollbackProductPublish({ id }),
    beta.unpublishProductPublish({ id }),
    beta.diffProductPublish({ id }),
  ]) {
    expect(await reasonOf(call)).toBe("NOT_FOUND");
  }
  const own = await publish({ productId: "theirs" }, "beta");
  expect(await reasonOf(beta.diffProductPublish({ id: own.id, to: id }))).toBe("NOT_FOUND");
  expect((await beta.listProductPublishes({})).productPublishes.map((each) => each.id)).toEqual([own.id]);
});

test("an id that isn't there, and an API service that the revision lacks, are named", async () => {
  const { publish, alpha } = await start();
  for (const call of [
    publish({ productId: "nothing" }),
    publish({ clusterId: "nothing" }),
    publish({ gatewayId: "nothing" }),
    publish({ revisionId: "99" }),
    alpha.getProductPublish({ id: "publish_00000000000000000000000000" }),
    alpha.unpublishProductPublish({ id: "nothing" }),
  ]) {
    expect(await reasonOf(call)).toBe("NOT_FOUND");
  }
  expect(await reasonOf(publish({ apiServices: ["hello", "missing"] }))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(publish({ apiServices: ["a\0b"] }))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(publish({ limits: { priority: 12 } }))).toBe("INVALID_ARGUMENT");
});
