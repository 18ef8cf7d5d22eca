/**
 * An agent whose disk is not what it was: restored from an older copy, without
 * its journal, cloned to a second host, with another engine beside it. Nothing
 * is lost, doubled or removed; what only a person can know a person is asked.
 */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "@jest/globals";
import { Agent_Connectivity as Connectivity, Agent_State } from "@bowline/contract/agents";
import { Command_State } from "@bowline/contract/commands";
import { freePort, isRunning, runProcess, temporaryFolder, testDatabase, until } from "@bowline/testing";
import { folderOfAnAgent, type Server, startAgent, startServer } from "../e2e/fixture.ts";
import {
  applyProduct,
  freshName,
  joinAgent,
  live,
  makePlace,
  online,
  publish,
  publishVersion,
  type Serving,
} from "../e2e/operating.ts";
import { servedVersion, startConsumer, startUpstream, type Upstream } from "../e2e/requests.ts";

/** A refused agent looks again within a minute; cold starts share two cores. */
const withinMs = 120_000;

let server: Server;
let upstream: Upstream;
beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url });
  upstream = await startUpstream();
}, 120_000);

/** A place whose listener has a port of its own, so that it answers there again. */
async function serving(): Promise<Serving> {
  const place = await makePlace(server.api, await freePort());
  const agent = await joinAgent(place);
  const product = freshName("product");
  await applyProduct(server.api, product, { backend: upstream.url });
  const { id } = await publish(place, product);
  const { url } = await live(server.api, id);
  const [dataPlane] = agent.dataPlanes();
  if (dataPlane === undefined) throw new Error("no data plane runs");
  return { place, agent, product, url: `${url}/${product}`, publishId: id, dataPlane };
}

async function copyFolder(from: string, to: string): Promise<void> {
  const { code, output } = await runProcess({ command: ["cp", "-a", `${from}/.`, to] });
  if (code !== 0) throw new Error(output);
}

/** As a host that goes down: the agent and what it runs. */
async function powerOff({ agent, dataPlane }: Serving): Promise<void> {
  await agent.kill();
  process.kill(dataPlane, "SIGKILL");
  await until(() => !isRunning(dataPlane), { what: "the data plane has ended" });
}

const get = async ({ agent }: Serving) => server.api.agents.getAgent({ id: await agent.id() });
const inState = (one: Serving, state: Agent_State) =>
  until(async () => (await get(one)).state === state, { withinMs, what: `the agent is in state ${state}` });
const serves = (url: string, version: string) =>
  until(async () => (await servedVersion(url)) === version, { withinMs, what: `${url} serves version ${version}` });

async function commandsOf({ place }: Serving) {
  const { commands } = await server.api.commands.listCommands({ clusterId: place.clusterId });
  return commands;
}

test("an agent whose disk was restored from an older copy signs in, and gets what it has lost; nobody is asked, nothing runs twice", async () => {
  const one = await serving();
  const { agent, place } = one;
  const copy = temporaryFolder();
  await copyFolder(agent.dataDir, copy);
  await publishVersion(one, upstream, "2");
  await publishVersion(one, upstream, "3");
  const later = freshName("product"); // the copy has never heard of it
  await applyProduct(server.api, later, { backend: upstream.url, version: "9" });
  await live(server.api, (await publish(place, later)).id);
  const before = (await get(one)).epoch;

  await powerOff(one);
  rmSync(agent.dataDir, { recursive: true });
  await copyFolder(copy, agent.dataDir);
  const again = agent.again();
  await serves(one.url, "3");
  await serves(one.url.replace(one.product, later), "9");
  expect(again.dataPlanes()).toHaveLength(1);
  expect((await get(one)).epoch).toBeGreaterThan(before);
  expect(await get(one)).toMatchObject({ state: Agent_State.ENROLLED, disputes: [] });
  await until(async () => (await commandsOf(one)).every(({ state }) => state === Command_State.SUCCEEDED), {
    withinMs,
  });
  const repeated = (await commandsOf(one)).filter(({ createdBy }) => createdBy === "lost-journal");
  expect(repeated.map(({ attempt }) => attempt)).toEqual([1, 1]); // both routes; the data plane was in the copy
  await publishVersion(one, upstream, "4");
  await serves(one.url, "4");
});

test("an agent whose journal was deleted in the middle of a publish carries it out once; its data plane serves on, with what it had", async () => {
  const one = await serving();
  const { agent, place } = one;
  const other = freshName("product");
  await applyProduct(server.api, other, { backend: upstream.url, version: "9" });
  await live(server.api, (await publish(place, other)).id);
  const consumers = [one.url, one.url.replace(one.product, other)].map((url) => startConsumer(url));
  await agent.kill();
  const crashing = agent.again({ env: { BOWLINE_FAULT: "converge.effect" } });
  await applyProduct(server.api, one.product, { backend: upstream.url, version: "2" });
  const { id } = await publish(place, one.product);
  expect(await crashing.process.ended).toMatchObject({ signal: "SIGKILL" });
  rmSync(join(agent.dataDir, "journal.log"));

  const again = crashing.again();
  await live(server.api, id);
  expect(await servedVersion(one.url)).toBe("2");
  await until(async () => (await commandsOf(one)).every(({ state }) => state === Command_State.SUCCEEDED), {
    withinMs,
  });
  const repeated = (await commandsOf(one)).filter(({ createdBy }) => createdBy === "lost-journal");
  expect(repeated).toHaveLength(2); // the data plane and the other product's routes
  expect(again.dataPlanes()).toEqual([one.dataPlane]);
  expect(await get(one)).toMatchObject({ state: Agent_State.ENROLLED, disputes: [] });
  for (const consumer of consumers) expect(await consumer.stop()).toEqual([]);
});

test("a folder that was cloned to a second host puts the agent into CONFLICT before any command; released, the first goes on", async () => {
  const one = await serving();
  const consumer = startConsumer(one.url);
  const clone = folderOfAnAgent();
  await copyFolder(one.agent.dataDir, clone);
  const machineId = join(temporaryFolder(), "machine-id");
  writeFileSync(machineId, `${"c".repeat(32)}\n`);
  const elsewhere = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const asHost = ["sh", "-c", `mount --bind ${machineId} /etc/machine-id && exec "$@"`, "sh"];
  const second = startAgent(server.url, { dataDir: clone, prefix: [...elsewhere, ...asHost] });
  await inState(one, Agent_State.CONFLICT);
  expect(await get(one)).toMatchObject({ conflict: "OTHER_RUNTIME" });
  await applyProduct(server.api, one.product, { backend: upstream.url, version: "2" });
  const { id } = await publish(one.place, one.product);
  await until(async () => (await get(one)).connectivity !== Connectivity.ONLINE, { withinMs });
  expect(await servedVersion(one.url)).toBe("1"); // neither gets a command
  await second.kill();

  await server.api.agents.releaseAgent({ id: await one.agent.id() });
  await one.agent.kill(); // else it looks again within a minute
  const first = one.agent.again();
  await live(server.api, id);
  expect(await servedVersion(one.url)).toBe("2");
  expect(first.dataPlanes()).toEqual([one.dataPlane]);
  expect(await consumer.stop()).toEqual([]);
});

test("an agent with another engine is in CONFLICT; once the operator accepts it, everything is converged there anew", async () => {
  const one = await serving();
  await powerOff(one);
  for (const ofTheEngine of ["runtime.json", "deployments", "volumes"])
    rmSync(join(one.agent.dataDir, ofTheEngine), { recursive: true, force: true });
  const refused = one.agent.again();
  await inState(one, Agent_State.CONFLICT);
  expect(await get(one)).toMatchObject({ conflict: "OTHER_RUNTIME" });
  expect(refused.dataPlanes()).toEqual([]);

  await server.api.agents.releaseAgent({ id: await one.agent.id(), acceptRuntimeIdentity: true });
  await refused.kill();
  const accepted = refused.again();
  await online(server.api, accepted);
  await serves(one.url, "1");
  expect(accepted.dataPlanes()).toHaveLength(1);
  await publishVersion(one, upstream, "2");
  expect(await servedVersion(one.url)).toBe("2");
});
