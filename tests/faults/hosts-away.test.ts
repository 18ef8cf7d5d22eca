/**
 * A host that is away for longer than a command waits for it, with a real agent: what it owes is asked again when it
 * returns. Long because the server blames nobody's absence in its first two minutes.
 */
import { expect, test } from "@jest/globals";
import { Command_State } from "@bowline/contract/commands";
import { Stack_State, StackTarget_State } from "@bowline/contract/stacks";
import { runProcess, testDatabase, until } from "@bowline/testing";
import { programs, startServer } from "../e2e/fixture.ts";
import { joinAgent, offline, online } from "../e2e/operating.ts";

/** Two minutes of the server's, and a busy machine. */
const lapsedWithinMs = 180_000;

const compose = (said: string): string => `
services:
  web:
    image: local
    command: ["node", "-e", "console.log('${said}'); setInterval(() => {}, 1 << 30)"]
    deploy: {mode: global}
`;

test("a host that returns after its part has lapsed gets it once; one that returns after the removal removes it", async () => {
  const server = await startServer({ databaseUrl: (await testDatabase()).url, flags: ["--max-connections", "8"] });
  const { api } = server;
  const { id: clusterId } = await api.clusters.createCluster({ cluster: { name: "factory-7", runtime: "local" } });
  const place = { api, clusterId, cluster: "factory-7", gatewayId: "" };
  await joinAgent(place, { flags: ["--name", "press-1"] });
  const away = await joinAgent(place, { flags: ["--name", "press-2"] });
  const agentId = await away.id();
  const bowline = (input: string, ...args: string[]) =>
    runProcess({
      command: ["node", programs.cli, "stack", ...args],
      env: { BOWLINE_URL: server.url, BOWLINE_TOKEN: server.adminToken, NO_COLOR: "1" },
      input,
    });
  const up = (said: string, ...flags: string[]) =>
    bowline(
      compose(said),
      ...["up", "-f", "-", "--name", "shop", "--to", "factory-7", "--min-healthy-time", "0", ...flags],
    );
  const shop = () => api.stacks.getStack({ id: "shop" });
  const its = async () => (await shop()).targets.find((target) => target.agentId === agentId);
  const said = async (text: string) =>
    (await bowline("", "logs", "shop", "web", "--agent", "press-2")).stdout.includes(text);

  expect(await up("first")).toMatchObject({ code: 0 });
  await until(() => said("first"));
  await away.kill();
  await offline(api, away);
  const second = await up("second", "--offline-life", "1s");
  expect(second).toMatchObject({ code: 0 });
  expect(second.stderr).toContain("Follows when it returns: press-2.");
  const { commandId = "" } = (await its()) ?? {};
  await until(async () => (await api.commands.getCommand({ id: commandId })).state === Command_State.EXPIRED, {
    withinMs: lapsedWithinMs,
    what: "the part of press-2 lapses",
  });
  expect(await shop()).toMatchObject({ state: Stack_State.RUNNING, reason: "", conditions: ["AGENT_OFFLINE"] });
  expect((await bowline("", "ps", "shop")).stdout).toMatch(/press-2 .*offline since .*follows when it returns/);

  const back = away.again();
  await online(api, back);
  await until(async () => (await its())?.state === StackTarget_State.DONE, { withinMs: 60_000 });
  await until(() => said("second"));
  const { commands } = await api.commands.listCommands({ agentId });
  expect(commands.filter(({ createdBy }) => createdBy === "agent-returned")).toMatchObject([
    { state: Command_State.SUCCEEDED, revision: 2 },
  ]);

  await back.kill();
  await offline(api, back);
  expect(await bowline("", "down", "shop", "--yes")).toMatchObject({ code: 0 });
  await until(async () => (await shop()).owingAgents.join() === "press-2");
  const { id } = await shop();
  await online(api, back.again());
  await until(async () => (await api.stacks.getStack({ id })).state === Stack_State.DELETED, { withinMs: 60_000 });
});
