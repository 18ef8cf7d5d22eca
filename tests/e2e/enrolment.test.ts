/** Who may enrol and who may ask for what: each refusal has its reason, and changes nothing. */
import { existsSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { join } from "node:path";
import { beforeAll, expect, test } from "@jest/globals";
import { Agent_State, Agent_Connectivity as Connectivity } from "@bowline/contract/agents";
import { RegistrationToken_State as TokenState } from "@bowline/contract/clusters";
import { Role } from "@bowline/contract/options";
import { atEnd, testDatabase, until } from "@bowline/testing";
import { openApi, refusal } from "./api.ts";
import { type Server, startAgent, startServer, type TestAgent } from "./fixture.ts";
import { applyProduct, freshName, issueToken, joinAgent, live, makePlace, online, publish } from "./operating.ts";
import { servedVersion, startUpstream } from "./requests.ts";

let server: Server;

beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url });
}, 60_000);

async function agentsOf(clusterId: string) {
  return (await server.api.agents.listAgents({ clusterId })).agents;
}

/** The reason that an agent which gives up says in its one line. */
async function givesUp(agent: TestAgent): Promise<string> {
  const { code } = await agent.process.ended;
  expect(code).toBe(4);
  const lines = agent.process.stderr().split("\n");
  const said = lines.filter((line) => line.startsWith("bowline agent: "));
  expect(said).toHaveLength(1);
  return /^bowline agent: ([A-Z_]+): .{10,}/.exec(said[0] ?? "")?.[1] ?? String(said);
}

test("a token that is used, expired, revoked, unknown, malformed or of another runtime ends the agent with 4 and the reason", async () => {
  const { api } = server;
  const place = await makePlace(api);
  const { clusterId } = place;
  const docker = await api.clusters.createCluster({ cluster: { name: freshName("cluster"), runtime: "docker" } });

  const used = await issueToken(place);
  await online(api, startAgent(server.url, { token: used }));
  const revoked = await api.tokens.createRegistrationToken({ clusterId });
  await api.tokens.revokeRegistrationToken({ id: revoked.id });
  const expired = await api.tokens.createRegistrationToken({ clusterId, ttl: { seconds: 1n, nanos: 0 } });
  await until(async () => (await api.tokens.getRegistrationToken({ id: expired.id })).state === TokenState.EXPIRED);
  const foreign = await api.tokens.createRegistrationToken({ clusterId: docker.id });
  const active = await issueToken(place);

  const texts = {
    REGISTRATION_TOKEN_USED: used,
    REGISTRATION_TOKEN_EXPIRED: expired.token,
    REGISTRATION_TOKEN_REVOKED: revoked.token,
    REGISTRATION_TOKEN_UNKNOWN: `${active.slice(0, -3)}xyz`,
    REGISTRATION_TOKEN_MALFORMED: active.slice(0, -3),
    CLUSTER_MISMATCH: foreign.token,
  };
  for (const [reason, token] of Object.entries(texts)) {
    const agent = startAgent(server.url, { token });
    expect(await givesUp(agent)).toBe(reason);
    expect(existsSync(join(agent.dataDir, "agent.json"))).toBe(false);
  }
  expect(await givesUp(startAgent(server.url))).toBe("REGISTRATION_TOKEN_MISSING");

  expect(await agentsOf(clusterId)).toHaveLength(1);
  expect(await agentsOf(docker.id)).toEqual([]);
  expect(await api.tokens.getRegistrationToken({ id: foreign.id })).toMatchObject({
    state: TokenState.ACTIVE,
    uses: 0,
  });
  // What was ours and refused is in the audit trail.
  const { auditEvents } = await api.audit.listAuditEvents({ pageSize: 100 });
  const outcomes = auditEvents.filter((event) => event.action === "agent.enrol").map((event) => event.outcome);
  for (const reason of ["USED", "EXPIRED", "REVOKED"]) expect(outcomes).toContain(`REGISTRATION_TOKEN_${reason}`);
}, 120_000);

test("of two agents that use one token at once exactly one enrols", async () => {
  const place = await makePlace(server.api);
  const token = await issueToken(place);
  const agents = [startAgent(server.url, { token }), startAgent(server.url, { token })];
  const loser = await Promise.race(agents.map((agent) => agent.process.ended.then(() => agent)));
  expect(await givesUp(loser)).toBe("REGISTRATION_TOKEN_USED");
  const [enrolled, ...others] = await agentsOf(place.clusterId);
  expect(others).toEqual([]);
  const [winner] = agents.filter((agent) => agent !== loser);
  expect(await winner?.id()).toBe(enrolled?.id);
});

test("an agent whose enrolment's reply is lost asks again and is the same agent", async () => {
  const place = await makePlace(server.api);
  const token = await issueToken(place);
  const proxy = await startProxy(server.port);
  proxy.holdReplies = true;
  const agent = startAgent(proxy.url, { token });
  const [first] = await until(async () => {
    const agents = await agentsOf(place.clusterId);
    return agents.length > 0 ? agents : undefined;
  });
  expect(existsSync(join(agent.dataDir, "agent.json"))).toBe(false);
  proxy.holdReplies = false;
  proxy.cut();
  await online(server.api, agent);
  expect(await agent.id()).toBe(first?.id);
  expect(await agentsOf(place.clusterId)).toHaveLength(1);
});

test("an agent that has enrolled keeps its place, whatever token it is started with", async () => {
  const [here, elsewhere] = [await makePlace(server.api), await makePlace(server.api)];
  const agent = await joinAgent(here);
  await agent.process.end();
  const unused = await server.api.tokens.createRegistrationToken({ clusterId: elsewhere.clusterId });
  const again = startAgent(server.url, { dataDir: agent.dataDir, token: unused.token });
  await online(server.api, again);
  expect(await agentsOf(here.clusterId)).toMatchObject([{ id: await agent.id(), epoch: 2 }]);
  expect(await agentsOf(elsewhere.clusterId)).toEqual([]);
  expect(await server.api.tokens.getRegistrationToken({ id: unused.id })).toMatchObject({ state: TokenState.ACTIVE });
});

test("a revoked agent loses its stream, ends with 4, and is kept out; what it runs serves on", async () => {
  const { api } = server;
  const upstream = await startUpstream();
  const place = await makePlace(api);
  const agent = await joinAgent(place);
  const product = freshName("product");
  await applyProduct(api, product, { backend: upstream.url });
  const { url } = await live(api, (await publish(place, product)).id);

  const id = await agent.id();
  await api.agents.revokeAgent({ id });
  expect(await givesUp(agent)).toBe("AGENT_REVOKED");
  const revoked = await api.agents.getAgent({ id });
  expect(revoked).toMatchObject({ state: Agent_State.REVOKED, connectivity: Connectivity.OFFLINE });
  expect(await servedVersion(`${url}/${product}`)).toBe("1");

  expect(await givesUp(agent.again())).toBe("AGENT_REVOKED");
  expect(await api.agents.getAgent({ id })).toMatchObject({ state: Agent_State.REVOKED, epoch: revoked.epoch });
});

test("a customer may not do what is an operator's or a provider's, over Connect or REST, and nothing changes", async () => {
  const { api } = server;
  const place = await makePlace(api);
  const { organisationId } = await api.auth.getMe({});
  const { token } = await api.accounts.createServiceAccount({
    name: freshName("account"),
    role: Role.CUSTOMER,
    organisationId,
  });
  const customer = openApi(server.url, token);
  const denied = { code: "PermissionDenied", reason: "PERMISSION_DENIED" };
  const name = freshName("cluster");
  expect(await refusal(customer.clusters.createCluster({ cluster: { name, runtime: "local" } }))).toMatchObject(denied);
  expect(await refusal(customer.clusters.deleteCluster({ id: place.clusterId, cascade: true }))).toMatchObject(denied);
  expect(await refusal(customer.tokens.createRegistrationToken({ clusterId: place.clusterId }))).toMatchObject(denied);
  expect(await refusal(customer.agents.listAgents({}))).toMatchObject(denied);
  expect(await refusal(publish({ ...place, api: customer }, "hello"))).toMatchObject(denied);

  const overRest = await fetch(`${server.url}/v1/operator/clusters`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json", connection: "close" },
    body: JSON.stringify({ name, runtime: "local" }),
  });
  expect(overRest.status).toBe(403);
  expect(await overRest.json()).toMatchObject({ code: "permission_denied" });
  expect(await refusal(api.clusters.getCluster({ id: name }))).toMatchObject({ reason: "NOT_FOUND" });
  const { registrationTokens } = await api.tokens.listRegistrationTokens({ clusterId: place.clusterId });
  expect(registrationTokens).toEqual([]);
});

test("another organisation's product, gateway, publish and command do not exist for a provider, and stay as they are", async () => {
  const { api } = server;
  const upstream = await startUpstream();
  const place = await makePlace(api);
  await joinAgent(place);
  const product = freshName("product");
  await applyProduct(api, product, { backend: upstream.url });
  const { publish: theirs, url } = await live(api, (await publish(place, product)).id);

  const organisation = await api.organisations.createOrganisation({
    organisation: { name: freshName("organisation") },
  });
  await api.clusters.grantCluster({ id: place.clusterId, organisationId: organisation.id });
  const { token } = await api.accounts.createServiceAccount({
    name: freshName("account"),
    role: Role.PROVIDER,
    organisationId: organisation.id,
  });
  const other = openApi(server.url, token);
  const gone = { code: "NotFound", reason: "NOT_FOUND" };
  const { id, productId, gatewayId, clusterId, targets } = theirs;
  for (const call of [
    () => other.products.getProduct({ id: productId }),
    () => other.products.deleteProduct({ id: productId }),
    () => other.gateways.getGateway({ id: gatewayId }),
    () => other.publishes.getProductPublish({ id }),
    () => other.publishes.rollbackProductPublish({ id }),
    () => other.publishes.unpublishProductPublish({ id }),
    () => other.publishes.createProductPublish({ productId, clusterId, gatewayId }),
    () => other.commands.getCommand({ id: targets[0]?.commandId ?? "" }),
  ]) {
    expect({ call: call.toString(), ...(await refusal(call())) }).toMatchObject(gone);
  }
  expect((await other.products.listProducts({})).products).toEqual([]);
  expect((await other.publishes.listProductPublishes({})).productPublishes).toEqual([]);
  expect((await other.commands.listCommands({})).commands).toEqual([]);
  const { state, revisionId, supersededBy } = theirs;
  expect(await api.publishes.getProductPublish({ id })).toMatchObject({ state, revisionId, supersededBy, targets });
  expect(await servedVersion(`${url}/${product}`)).toBe("1");
});

/** A TCP proxy in front of the server that can keep its replies to itself. */
async function startProxy(port: number) {
  const sockets = new Set<Socket>();
  const proxy = {
    url: "",
    holdReplies: false,
    cut: () => sockets.forEach((socket) => socket.destroy()),
  };
  const listener = createServer((client) => {
    const upstream = connect(port, "127.0.0.1");
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket);
      socket.on("error", () => {}); // Its close ends the other side as well.
      socket.on("close", () => (sockets.delete(socket), other.destroy()));
    }
    client.pipe(upstream);
    let greeted = false; // HTTP/2's SETTINGS come first; without them the agent asks nothing
    upstream.on("data", (bytes) => {
      if (!greeted || !proxy.holdReplies) client.write(bytes);
      greeted = true;
    });
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    proxy.cut();
    await new Promise<void>((resolve) => listener.close(() => resolve()));
  });
  proxy.url = `http://127.0.0.1:${(listener.address() as AddressInfo).port}`;
  return proxy;
}
