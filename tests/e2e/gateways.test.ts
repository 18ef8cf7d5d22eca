/** What is put on agents and taken off again: gateways that are shared, cordons, unpublishing, whole clusters. */
import { beforeAll, expect, test } from "@jest/globals";
import { Cluster_State as ClusterState } from "@bowline/contract/clusters";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { isRunning, runProcess, testDatabase, until } from "@bowline/testing";
import { refusal } from "./api.ts";
import { programs, type Server, startAgent, startServer } from "./fixture.ts";
import {
  applyProduct,
  freshName,
  issueToken,
  joinAgent,
  live,
  makePlace,
  offline,
  online,
  publish,
  publishIn,
  publishVersion,
  serving,
} from "./operating.ts";
import { servedVersion, startConsumer, startUpstream, type Upstream } from "./requests.ts";

let server: Server;
let upstream: Upstream;

beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url });
  upstream = await startUpstream();
}, 60_000);

test("two products share a gateway's data plane; updates and the removal of one leave the other alone", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  const other = freshName("product");
  await applyProduct(api, other, { backend: upstream.url });
  const { id } = await publish(here.place, other);
  const otherUrl = `${(await live(api, id)).url}/${other}`;
  expect(new URL(otherUrl).port).toBe(new URL(here.url).port);
  expect(here.agent.dataPlanes()).toEqual([here.dataPlane]);

  const consumer = startConsumer(here.url);
  for (const version of ["2", "3", "4"]) await publishVersion({ ...here, product: other }, upstream, version);
  expect(await servedVersion(otherUrl)).toBe("4");
  const { productPublishes } = await api.publishes.listProductPublishes({ productId: other, pageSize: 1 });
  await api.publishes.unpublishProductPublish({ id: productPublishes[0]?.id ?? "" });
  await publishIn(api, productPublishes[0]?.id ?? "", State.UNPUBLISHED);
  expect(await servedVersion(otherUrl)).toBe("404");
  expect(here.agent.dataPlanes()).toEqual([here.dataPlane]);
  await until(() => consumer.answered() > 10); // on a fast machine all of it takes less than that
  expect(await consumer.stop()).toEqual([]);
});

test("unpublishing the last product removes its routes, then the data plane; a later publish gets a new one", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  await api.publishes.unpublishProductPublish({ id: here.publishId });
  await publishIn(api, here.publishId, State.UNPUBLISHED);
  await until(() => !isRunning(here.dataPlane));
  expect(here.agent.dataPlanes()).toEqual([]);
  // Removals are shown until the agent has said that they are done.
  const left = async () => (await api.deployments.listDeployments({ clusterId: here.place.clusterId })).deployments;
  await until(async () => (await left()).length === 0);

  const { id } = await publish(here.place, here.product);
  const { url } = await live(api, id);
  expect(await servedVersion(`${url}/${here.product}`)).toBe("1");
  expect(here.agent.dataPlanes()).toHaveLength(1);
});

test("what is unpublished while the agent is away is removed when it is back", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  await here.agent.process.end();
  await offline(api, here.agent);
  await api.publishes.unpublishProductPublish({ id: here.publishId });
  expect(await publishIn(api, here.publishId, State.UNPUBLISHING)).toMatchObject({
    targets: [{ reason: "AGENT_OFFLINE" }],
  });
  expect(await servedVersion(here.url)).toBe("1");
  here.agent.again();
  await publishIn(api, here.publishId, State.UNPUBLISHED);
  await until(() => !isRunning(here.dataPlane));
});

test("a cordoned agent gets nothing new, keeps and updates what it has, and gets the rest when uncordoned", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  const id = await here.agent.id();
  expect(await api.agents.cordonAgent({ id })).toMatchObject({ cordoned: true });
  const other = freshName("product");
  await applyProduct(api, other, { backend: upstream.url });
  const waiting = await publish(here.place, other);
  expect(waiting).toMatchObject({ state: State.PENDING, reason: "NO_AGENT", targets: [] });
  await publishVersion(here, upstream, "2");
  expect(await servedVersion(here.url)).toBe("2");
  expect(await api.publishes.getProductPublish({ id: waiting.id })).toMatchObject({ reason: "NO_AGENT" });

  await api.agents.uncordonAgent({ id });
  const { url } = await live(api, waiting.id);
  expect(await servedVersion(`${url}/${other}`)).toBe("1");
});

test("deleting a cluster with --cascade removes all that runs, refuses what is new meanwhile, and then the cluster is gone", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  const { clusterId } = here.place;
  const token = await issueToken(here.place);
  expect(await refusal(api.clusters.deleteCluster({ id: clusterId }))).toMatchObject({ reason: "CLUSTER_NOT_EMPTY" });
  await here.agent.process.end();
  await offline(api, here.agent);

  const deleted = runProcess({
    command: ["node", programs.cli, "cluster", "delete", here.place.cluster, "--cascade", "--yes"],
    env: { BOWLINE_URL: server.url, BOWLINE_TOKEN: server.adminToken },
  });
  await until(async () => (await api.clusters.getCluster({ id: clusterId })).state === ClusterState.DELETING);
  expect(await refusal(publish(here.place, here.product))).toMatchObject({ reason: "CLUSTER_DELETING" });
  const late = startAgent(server.url, { token });
  expect(await late.process.ended).toMatchObject({ code: 4 });
  expect(late.process.stderr()).toContain("bowline agent: REGISTRATION_TOKEN_REVOKED: "); // Its tokens go first.
  expect(await refusal(issueToken(here.place))).toMatchObject({ reason: "CLUSTER_DELETING" });
  expect(await servedVersion(here.url)).toBe("1");

  const back = here.agent.again();
  await until(() => !isRunning(here.dataPlane));
  await until(async () => (await refusal(api.clusters.getCluster({ id: clusterId }))).reason === "NOT_FOUND");
  expect(back.dataPlanes()).toEqual([]);
  expect(await deleted).toMatchObject({ code: 0 });
});

test("a second agent of a cluster gets what is published there, and the publish stays LIVE", async () => {
  const { api } = server;
  const here = await serving(api, upstream);
  const second = await joinAgent(here.place);
  await online(api, second);
  const grown = await until(async () => {
    const found = await api.publishes.getProductPublish({ id: here.publishId });
    expect(found.state).toBe(State.LIVE);
    return found.liveTargets === 2 && found.targets.every((target) => target.urls.length > 0) ? found : undefined;
  });
  const urls = grown.targets.flatMap((target) => target.urls);
  expect(new Set(urls).size).toBe(2);
  for (const url of urls) expect(await servedVersion(`${url}/${here.product}`)).toBe("1");
  expect(second.dataPlanes()).toHaveLength(1);
});

test("an agent with --stop-workloads-on-exit takes its data plane along, and the next start brings it back", async () => {
  const { api } = server;
  const place = await makePlace(api);
  const agent = await joinAgent(place, { flags: ["--stop-workloads-on-exit"] });
  const product = freshName("product");
  await applyProduct(api, product, { backend: upstream.url });
  const { url } = await live(api, (await publish(place, product)).id);
  expect(await agent.process.end()).toEqual({ code: 0, signal: null });
  expect(agent.dataPlanes()).toEqual([]);
  agent.again();
  await until(async () => (await servedVersion(`${url}/${product}`)) === "1");
});
