/** Hosts that are gone for good, and disks that came back older or empty: what becomes of what was theirs. */
import { beforeAll, expect, test } from "@jest/globals";
import { AgentsService } from "@bowline/contract/agents";
import { Command_State as State, CommandService } from "@bowline/contract/commands";
import {
  type ProductPublish,
  ProductPublish_State as Publish,
  ProductPublishService,
} from "@bowline/contract/products";
import { type ScriptedAgent, startServer, type TestServer, until } from "@bowline/testing";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
}, 120_000);

/** Carries out as many commands. */
async function obey(agent: ScriptedAgent, count: number): Promise<void> {
  for (let done = 0; done < count; done += 1) {
    const command = await agent.nextCommand();
    await agent.receive(command);
    await agent.report(command, { succeeded: true });
  }
}

const isIn = (id: string, state: ProductPublish["state"]) =>
  until(async () => (await server.operator.publishOf(id)).state === state, {
    what: `the publish in state ${state}`,
  });

test("agent retire settles what a dead host owes: its commands end, publishes go on without it, and the next agent gets them", async () => {
  const gone = await server.scriptedAgent({ cluster: "yard", name: "gone" });
  const stays = await server.scriptedAgent({ cluster: "yard", name: "stays" });
  const hello = await server.operator.publish("hello", { to: "yard" });
  const other = await server.operator.publish("other", { to: "yard" });
  await Promise.all([obey(gone, 3), obey(stays, 3)]); // one data plane, two products
  await isIn(hello.id, Publish.LIVE);
  await isIn(other.id, Publish.LIVE);

  const newer = await server.operator.publish("hello", { to: "yard", backendUrl: "http://127.0.0.1:10" });
  const underWay = await gone.nextCommand();
  await gone.receive(underWay);
  await obey(stays, 1);
  await server.operator.commandIn(underWay.commandId, State.RUNNING);
  gone.drop();
  await server.client(ProductPublishService).unpublishProductPublish({ id: other.id });
  await obey(stays, 1);
  expect((await server.operator.publishOf(newer.id)).state).not.toBe(Publish.LIVE);
  expect((await server.operator.publishOf(other.id)).state).toBe(Publish.UNPUBLISHING);

  const agents = server.client(AgentsService);
  await until(async () => (await agents.retireAgent({ id: gone.agentId })).id, {
    what: "its session to end, and retire",
  });
  await isIn(newer.id, Publish.LIVE);
  await isIn(other.id, Publish.UNPUBLISHED);
  const shown = await server.operator.publishOf(newer.id);
  expect(shown.targets.map(({ agent, state }) => [agent, state])).toEqual([["stays", Publish.LIVE]]);
  expect((await server.operator.command(underWay.commandId)).state).toBe(State.LOST);
  const { commands } = await server.client(CommandService).listCommands({ agentId: gone.agentId });
  for (const { endedAt } of commands) expect(endedAt).toBeDefined();

  const next = await server.scriptedAgent({ cluster: "yard", name: "gone" }); // its name is free
  await obey(next, 2);
  await until(async () => (await server.operator.publishOf(newer.id)).liveTargets === 2, { what: "the next agent" });
  expect((await server.operator.publishOf(newer.id)).state).toBe(Publish.LIVE);
});

test("an agent whose journal is whole gets what had no receipt with the same attempt; one whose disk went back to an older copy as a new one", async () => {
  const agent = await server.scriptedAgent({ cluster: "disks" });
  agent.drop();
  await agent.connect({ greeting: { journalId: "disk", journalCounter: 5 } });
  await server.operator.publish("disks", { to: "disks" });
  const pushed = await agent.nextCommand();
  expect(pushed.attempt).toBe(1);
  agent.drop(); // before a receipt
  await agent.connect({ greeting: { journalId: "disk", journalCounter: 6 } });
  expect(await agent.nextCommand()).toMatchObject({ commandId: pushed.commandId, attempt: 1 });
  agent.drop();
  await agent.connect({ greeting: { journalId: "disk", journalCounter: 3 } });
  const anew = await agent.nextCommand();
  expect(anew).toMatchObject({ commandId: pushed.commandId, attempt: 2, generation: pushed.generation });
  await agent.receive(anew);
  await agent.report(anew, { succeeded: true });
  const ended = await server.operator.commandIn(pushed.commandId, State.SUCCEEDED);
  expect(ended).toMatchObject({ attempt: 2, failures: 0 });
});
