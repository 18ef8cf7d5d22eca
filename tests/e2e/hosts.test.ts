/** The life of a host's agent, whole: its replacement, its keys. */
import { cpSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "@jest/globals";
import { Agent_Connectivity as Connectivity } from "@bowline/contract/agents";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { isRunning, runProcess, startProcess, temporaryFolder, testDatabase, until } from "@bowline/testing";
import { folderOfAnAgent, programs, type Server, startAgent, startServer } from "./fixture.ts";
import { issueToken, joinAgent, live, makePlace, offline, online, serving } from "./operating.ts";
import { servedVersion, startUpstream } from "./requests.ts";

/** On two busy cores. */
const settledWithinMs = 45_000;

let server: Server;
beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url });
}, 60_000);

test("a dead host's replacement becomes its agent by a rekey token: the routes answer there, and the dead one is refused", async () => {
  const { api } = server;
  const upstream = await startUpstream();
  const { agent: a, place, product, publishId, dataPlane } = await serving(api, upstream);
  const agentId = await a.id();
  const before = await api.agents.getAgent({ id: agentId });
  await a.kill();
  process.kill(dataPlane, "SIGKILL");
  await until(() => !isRunning(dataPlane));
  await offline(api, a);

  const { token } = await api.tokens.createRegistrationToken({ rekeyAgentId: agentId });
  const b = startAgent(server.url, { token });
  await until(async () => (await b.id()) === agentId, { withinMs: settledWithinMs });
  await online(api, b);
  const target = async () => (await api.publishes.getProductPublish({ id: publishId })).targets[0];
  await until(async () => (await target())?.state === State.LIVE, { withinMs: settledWithinMs });
  // Where it answers is told with what runs: for a moment it is where the dead one's did.
  await until(async () => (await servedVersion(`${(await live(api, publishId)).url}/${product}`)) === "1");
  expect(b.dataPlanes()).toHaveLength(1);
  const after = await api.agents.getAgent({ id: agentId });
  expect(after.name).toBe(before.name);
  expect(after.keyThumbprint).not.toBe(before.keyThumbprint);
  expect((await api.agents.listAgents({ clusterId: place.clusterId })).agents).toHaveLength(1);

  const dead = a.again();
  expect(await dead.process.ended).toMatchObject({ code: 4 });
  expect(dead.process.output()).toMatch(/AGENT_KEY_REPLACED: .*token create --rekey/);
  expect((await api.agents.getAgent({ id: agentId })).epoch).toBe(after.epoch);
});

test("rotate-key gives a running agent new keys without a new session; the old keys open nothing, the new ones do", async () => {
  const { api } = server;
  const { agent, url } = await serving(api, await startUpstream());
  const id = await agent.id();
  const before = await api.agents.getAgent({ id });
  const copy = join(temporaryFolder(), "copy");
  const filter = (path: string) => !/deployments|volumes|runtime\.pid/.test(path);
  await until(() => {
    rmSync(copy, { recursive: true, force: true });
    cpSync(agent.dataDir, copy, { recursive: true, filter }); // throws where the agent takes a file away meanwhile
    return true;
  });
  const asked = await runProcess({
    command: ["node", programs.cli, "agent", "rotate-key", "--data-dir", agent.dataDir, "-o", "json"],
  });
  expect(asked).toMatchObject({ code: 0, stderr: "" });
  const after = await api.agents.getAgent({ id });
  expect(JSON.parse(asked.stdout)).toEqual({ before: before.keyThumbprint, after: after.keyThumbprint });
  expect(after.keyThumbprint).not.toBe(before.keyThumbprint);
  expect(after.epoch).toBe(before.epoch);
  expect(await servedVersion(url)).toBe("1");

  const thief = startAgent(server.url, { dataDir: copy });
  expect(await thief.process.ended).toMatchObject({ code: 4 });
  expect(thief.process.output()).toMatch(/AGENT_KEY_REPLACED/);
  await agent.process.end();
  const again = agent.again();
  await until(async () => (await api.agents.getAgent({ id })).epoch > after.epoch, { withinMs: settledWithinMs });
  await online(api, again);
  expect(await servedVersion(url)).toBe("1");
});

test("an agent whose keys are older than --key-max-age replaces them by itself", async () => {
  const { api } = server;
  const agent = await joinAgent(await makePlace(api), { flags: ["--key-max-age", "30d"] });
  const id = await agent.id();
  const { keyThumbprint } = await api.agents.getAgent({ id });
  const old = new Date(Date.now() - 31 * 86_400_000);
  utimesSync(join(agent.dataDir, "signing-key.json"), old, old);
  await until(async () => (await api.agents.getAgent({ id })).keyThumbprint !== keyThumbprint, {
    withinMs: settledWithinMs,
  });
});

test("rotate-key says where no agent has enrolled, and where none answers, with an exit code for each", async () => {
  const rotate = (...args: string[]) =>
    runProcess({ command: ["node", programs.agent, "rotate-key", "--output", "json", ...args] });
  expect(await rotate("--data-dir", temporaryFolder())).toMatchObject({
    code: 1,
    stdout: expect.stringContaining("NOT_ENROLLED"),
  });
  const agent = await joinAgent(await makePlace(server.api));
  await agent.process.end();
  expect(await rotate("--data-dir", agent.dataDir, "--wait", "1s")).toMatchObject({
    code: 3,
    stdout: expect.stringContaining("NOT_IN_TIME"),
  });
  const { keyThumbprint } = await server.api.agents.getAgent({ id: await agent.id() });
  const again = agent.again();
  await online(server.api, again);
  await until(
    async () => (await server.api.agents.getAgent({ id: await agent.id() })).keyThumbprint !== keyThumbprint,
    {
      withinMs: settledWithinMs,
    },
  );
});

test("what install writes starts an agent that enrols: the unit's program with the settings of its file, as systemd starts it", async () => {
  const { api } = server;
  const place = await makePlace(api);
  const root = temporaryFolder();
  const dataDir = folderOfAnAgent();
  const installed = await runProcess({
    command: [
      "node",
      programs.cli,
      "agent",
      "install",
      server.url,
      "--root",
      root,
      "--data-dir",
      dataDir,
      "--name",
      "hall-3",
    ],
    env: { BOWLINE_REGISTRATION_TOKEN: await issueToken(place) },
  });
  expect(installed.code).toBe(0);
  const unit = readFileSync(join(root, "etc/systemd/system/bowline-agent.service"), "utf8");
  const started = startProcess({
    command: [
      "sh",
      "-c",
      `set -a; . "$1"; exec ${/^ExecStart=(.*)$/m.exec(unit)?.[1]}`,
      "sh",
      join(root, "etc/bowline/bowline-agent.env"),
    ],
  });
  const listed = async () => (await api.agents.listAgents({ clusterId: place.clusterId })).agents;
  await until(async () => (await listed()).some(({ connectivity }) => connectivity === Connectivity.ONLINE), {
    withinMs: settledWithinMs,
  });
  expect(await listed()).toMatchObject([{ name: "hall-3" }]);
  await started.end();
});
