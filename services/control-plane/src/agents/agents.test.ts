import { expect, test } from "@jest/globals";
import { Agent_Connectivity, Agent_State, AgentsService } from "@bowline/contract/agents";
import { Cluster_State } from "@bowline/contract/clusters";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { Role } from "@bowline/contract/options";
import { testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { converge } from "../commands/index.ts";
import { reasonOf } from "../platform/in-process.ts";
import { transact } from "../platform/transactions.ts";
import { type Slices, startSlices } from "./enrolment.fixture.ts";

async function start() {
  const slices = await startSlices((await testDatabase()).db);
  await slices.cluster("factory-7");
  const agent = async (hostname: string, clusterId = "factory-7", labels: Record<string, string> = {}) =>
    (await slices.enrol(await slices.token(clusterId), { hostname, labels })).agentId;
  return { ...slices, agent };
}

/** A deployment of the agent with one command that waits. */
async function deploy({ db, engine }: Slices, agentId: string) {
  const { cluster_id: clusterId } = await db
    .selectFrom("agents")
    .select("cluster_id")
    .where("id", "=", agentId)
    .executeTakeFirstOrThrow();
  const [enqueued] = await transact(db, (work) =>
    converge(engine, work, [
      {
        deploymentId: undefined,
        agentId,
        clusterId,
        organisationId: "org_x",
        kind: "test",
        ownerId: "test_1",
        build: () => ({ desired: Deployment_Desired.RUNNING }),
        createdBy: "test",
      },
    ]),
  );
  if (enqueued === undefined) throw new Error("nothing was enqueued");
  return enqueued;
}

test("an agent is found by id and by a name that only one has; a revoked one gives its name free", async () => {
  const { agent, cluster, operator } = await start();
  await cluster("factory-8");
  const one = await agent("press");
  expect((await operator.agents.getAgent({ id: "press" })).id).toBe(one);
  const two = await agent("press", "factory-8");
  expect(await reasonOf(operator.agents.getAgent({ id: "press" }))).toBe("AMBIGUOUS_NAME");
  await operator.agents.revokeAgent({ id: one });
  expect((await operator.agents.getAgent({ id: "press" })).id).toBe(two);
  expect((await operator.agents.getAgent({ id: one })).state).toBe(Agent_State.REVOKED);
  expect(await reasonOf(operator.agents.getAgent({ id: "nobody" }))).toBe("NOT_FOUND");
});

test("connectivity follows the session's row and the newest sign of life", async () => {
  const { agent, operator, session, heard, db } = await start();
  const [never, online, late, quiet, ended] = await Promise.all(["a", "b", "c", "d", "e"].map((name) => agent(name)));
  if (!never || !online || !late || !quiet || !ended) throw new Error("not enrolled");
  await session(online);
  await session(late, { openedSecondsAgo: 60 });
  await session(quiet, { openedSecondsAgo: 60 });
  await session(ended, { state: "ENDED", reason: "HEARTBEAT_MISSED" });
  heard.set(quiet, new Date());
  await db
    .insertInto("agent_seen")
    .values({ agent_id: online, last_seen_at: sql<Date>`now()`, running: 3, load_millis: 250 })
    .execute();
  const { agents } = await operator.agents.listAgents({});
  const seen = new Map(agents.map((each) => [each.id, each]));
  expect(seen.get(never)).toMatchObject({ connectivity: Agent_Connectivity.OFFLINE, offlineReason: "NEVER_CONNECTED" });
  expect(seen.get(online)).toMatchObject({
    connectivity: Agent_Connectivity.ONLINE,
    running: 3,
    loadMillis: 250,
    epoch: 1,
  });
  expect(seen.get(late)).toMatchObject({ connectivity: Agent_Connectivity.LATE, offlineReason: "" });
  expect(seen.get(quiet)).toMatchObject({ connectivity: Agent_Connectivity.ONLINE });
  expect(seen.get(ended)).toMatchObject({
    connectivity: Agent_Connectivity.OFFLINE,
    offlineReason: "HEARTBEAT_MISSED",
    replicaId: "",
  });
});

test("a cluster is ONLINE with all agents, DEGRADED with some, OFFLINE with none", async () => {
  const { agent, operator, session, db } = await start();
  const state = async () => (await operator.clusters.getCluster({ id: "factory-7" })).state;
  const [one, two] = [await agent("one"), await agent("two")];
  expect(await state()).toBe(Cluster_State.OFFLINE);
  await session(one);
  expect(await state()).toBe(Cluster_State.DEGRADED);
  await session(two);
  expect(await state()).toBe(Cluster_State.ONLINE);
  await db.updateTable("agents").set({ runtime_problem: "the engine does not answer" }).where("id", "=", two).execute();
  expect(await state()).toBe(Cluster_State.DEGRADED);
  await operator.agents.revokeAgent({ id: two });
  expect(await operator.clusters.getCluster({ id: "factory-7" })).toMatchObject({
    state: Cluster_State.ONLINE,
    agentsTotal: 1,
    agentsOnline: 1,
  });
});

test("operators change name, labels and capacity; what the agent reports stays below", async () => {
  const { agent, operator } = await start();
  const id = await agent("press", "factory-7", { line: "2", os: "linux" });
  await agent("other");
  const update = (change: object, ...paths: string[]) =>
    operator.agents.updateAgent({ agent: { id, ...change }, updateMask: { paths } });
  expect(await update({ labels: { line: "3", room: "a" }, capacityLimit: 4 })).toMatchObject({
    labels: { line: "3", os: "linux", room: "a" },
    capacityLimit: 4,
    etag: "2",
  });
  expect(await update({}, "labels")).toMatchObject({ labels: { line: "2", os: "linux" }, capacityLimit: 4 });
  expect(await update({ name: "press-left" }, "name")).toMatchObject({ name: "press-left" });
  expect(await reasonOf(update({ name: "other" }, "name"))).toBe("ALREADY_EXISTS");
  expect(await reasonOf(update({}, "name"))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(update({ runtime: "local" }, "runtime"))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(update({ etag: "1", name: "x" }, "name"))).toBe("STALE_ETAG");
});

test("cordoning is a flag, audited once, that changes nothing else", async () => {
  const { agent, operator } = await start();
  const id = await agent("press");
  for (const _ of [1, 2])
    expect(await operator.agents.cordonAgent({ id: "press" })).toMatchObject({ cordoned: true, etag: "2" });
  expect(await operator.agents.uncordonAgent({ id })).toMatchObject({ cordoned: false, state: Agent_State.ENROLLED });
  const { auditEvents } = await operator.audit.listAuditEvents({ resourceId: id });
  expect(auditEvents.map(({ action }) => action)).toEqual(["agent.uncordon", "agent.cordon", "agent.enrol"]);
});

test("a revocation ends session and commands in one transaction, and the stream after it", async () => {
  const slices = await start();
  const { agent, operator, session, db, closed } = slices;
  const id = await agent("press");
  await session(id);
  const { commandId } = await deploy(slices, id);
  for (const _ of [1, 2]) {
    expect(await operator.agents.revokeAgent({ id })).toMatchObject({
      state: Agent_State.REVOKED,
      connectivity: Agent_Connectivity.OFFLINE,
      offlineReason: "REVOKED",
    });
  }
  const command = await db
    .selectFrom("command_states")
    .selectAll()
    .where("command_id", "=", commandId)
    .executeTakeFirst();
  expect(command?.state).toBe("CANCELLED");
  expect(closed).toEqual([id]);
});

test("an agent is deleted once it is revoked and owes nothing; its audit trail stays", async () => {
  const slices = await start();
  const { agent, operator, session, db } = slices;
  const id = await agent("press");
  await session(id);
  const { deploymentId } = await deploy(slices, id);
  expect(await reasonOf(operator.agents.deleteAgent({ id }))).toBe("AGENT_NOT_REVOKED");
  const { etag } = await operator.agents.revokeAgent({ id });
  expect(await reasonOf(operator.agents.deleteAgent({ id }))).toBe("AGENT_NOT_EMPTY");
  await db.updateTable("deployments").set({ is_absent: true }).where("id", "=", deploymentId).execute();
  expect(await reasonOf(operator.agents.deleteAgent({ id, etag: "1" }))).toBe("STALE_ETAG");
  await operator.agents.deleteAgent({ id, etag });
  expect(await reasonOf(operator.agents.getAgent({ id }))).toBe("NOT_FOUND");
  const { auditEvents } = await operator.audit.listAuditEvents({ resourceId: id });
  expect(auditEvents.map(({ action }) => action)).toEqual(["agent.delete", "agent.revoke", "agent.enrol"]);
  expect((await operator.clusters.getCluster({ id: "factory-7" })).agentsTotal).toBe(0);
});

test("a cluster with an agent is not empty; with cascade its agents go once nothing is deployed", async () => {
  const slices = await start();
  const { agent, operator, clusters, db, closed, token } = slices;
  const id = await agent("press");
  const open = await token("factory-7");
  const { deploymentId } = await deploy(slices, id);
  expect(await reasonOf(operator.clusters.deleteCluster({ id: "factory-7" }))).toBe("CLUSTER_NOT_EMPTY");
  await operator.clusters.deleteCluster({ id: "factory-7", cascade: true });
  expect((await operator.clusters.getCluster({ id: "factory-7" })).state).toBe(Cluster_State.DELETING);
  expect(await reasonOf(slices.enrol(open))).toBe("REGISTRATION_TOKEN_REVOKED");
  expect(await reasonOf(token("factory-7"))).toBe("CLUSTER_DELETING");
  await db.updateTable("deployments").set({ is_absent: true }).where("id", "=", deploymentId).execute();
  const stop = new AbortController();
  const running = clusters.run(stop.signal);
  await until(async () => (await reasonOf(operator.clusters.getCluster({ id: "factory-7" }))) === "NOT_FOUND");
  stop.abort();
  await running;
  expect(closed).toEqual([id]);
  expect(await reasonOf(operator.agents.getAgent({ id }))).toBe("NOT_FOUND");
});

test("lists are ordered by cluster and name, filtered and paged without gaps", async () => {
  const { agent, cluster, operator } = await start();
  await cluster("a-cluster");
  for (const name of ["c", "a", "b"]) await agent(name);
  await agent("z", "a-cluster");
  const all = async (orderBy: string, clusterId = "") => {
    const names: string[] = [];
    let pageToken = "";
    do {
      const page = await operator.agents.listAgents({
        pageSize: 2,
        pageToken,
        orderBy,
        clusterId,
        returnTotalSize: true,
      });
      expect(page.totalSize).toBe(clusterId === "" ? 4 : 3);
      names.push(...page.agents.map(({ name }) => name));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return names.join("");
  };
  expect(await all("")).toBe("zabc");
  expect(await all("name desc")).toBe("cbaz");
  expect(await all("created_at", "factory-7")).toBe("cab");
  expect(await reasonOf(operator.agents.listAgents({ orderBy: "load" }))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(operator.agents.listAgents({ clusterId: "nowhere" }))).toBe("NOT_FOUND");
});

test("a viewer sees the agents of granted clusters and changes none; a provider sees none", async () => {
  const { agent, cluster, operator, account, api } = await start();
  await cluster("factory-8");
  await operator.organisations.createOrganisation({ organisation: { name: "acme" } });
  await operator.clusters.grantCluster({ id: "factory-8", organisationId: "acme" });
  const hidden = await agent("hidden");
  await agent("shown", "factory-8");
  const viewer = api.as(AgentsService, await account("v", Role.VIEWER, "acme"));
  const { agents, totalSize } = await viewer.listAgents({ returnTotalSize: true });
  expect([agents.map(({ name }) => name), totalSize]).toEqual([["shown"], 1]);
  expect(await reasonOf(viewer.getAgent({ id: hidden }))).toBe("NOT_FOUND");
  expect(await reasonOf(viewer.listAgents({ clusterId: "factory-7" }))).toBe("NOT_FOUND");
  expect(await reasonOf(viewer.cordonAgent({ id: "shown" }))).toBe("PERMISSION_DENIED");
  const provider = api.as(AgentsService, await account("p", Role.PROVIDER, "acme"));
  expect(await reasonOf(provider.listAgents({}))).toBe("PERMISSION_DENIED");
});

test("a watch starts with all agents, then tells changes and deletions, and goes on from a cursor", async () => {
  const { agent, operator, events } = await start();
  const id = await agent("press");
  const stop = new AbortController();
  const placing = events.run(stop.signal);
  const seen: string[] = [];
  let cursor = "";
  for await (const message of operator.agents.watchAgents({}, { signal: stop.signal })) {
    cursor = message.cursor;
    if (message.snapshotEnd) {
      seen.push("end");
      await operator.agents.cordonAgent({ id });
    } else if (message.agent !== undefined) {
      seen.push(`${message.agent.name}${message.agent.cordoned ? " cordoned" : ""}`);
      if (message.agent.cordoned) break;
    }
  }
  expect(seen).toEqual(["press", "end", "press cordoned"]);
  await operator.agents.revokeAgent({ id });
  await operator.agents.deleteAgent({ id });
  for await (const message of operator.agents.watchAgents({ cursor }, { signal: stop.signal })) {
    if (!message.deleted) continue;
    expect(message.agent?.id).toBe(id);
    break;
  }
  stop.abort();
  await placing;
});
