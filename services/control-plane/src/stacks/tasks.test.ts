/** The history of what was done for stacks: who, what, when, at which host, with which outcome. */
import { beforeAll, expect, test } from "@jest/globals";
import { Command_Kind as Kind, Command_State as State } from "@bowline/contract/commands";
import { testDatabase } from "@bowline/testing";
import { startStacks, type Stacking } from "./stacks.fixture.ts";

let slice: Stacking;

beforeAll(async () => {
  slice = await startStacks((await testDatabase()).db);
  await slice.db
    .insertInto("service_accounts")
    .values({
      ...{ id: "sa provider", organisation_id: slice.organisationId, name: "anna", role: "provider" },
      ...{ secret_hash: Buffer.alloc(0), created_by: "system" },
    })
    .execute();
});

const web = (image: string): string => `services: {web: {image: "${image}", deploy: {replicas: 2}}}`;

test("each step of a rollout is in the history with its revision and who began it, also what the server did later", async () => {
  const cluster = await slice.cluster("press");
  const agents = [await slice.agent(cluster, "press-1"), await slice.agent(cluster, "press-2")];
  const { stack } = await slice.apply("shop", web("web:1"), { clusterId: cluster });
  for (const agent of agents) {
    await agent.workOff();
    await slice.settle();
  }
  const { commands } = await slice.commands.listCommands({ stack: "shop" });
  const step = {
    ...{ stack: "shop", stackId: stack?.id, revision: 1, rolloutId: stack?.rollout?.id, kind: Kind.APPLY },
    ...{ state: State.SUCCEEDED, createdByName: "anna", ownerKind: "stack" },
  };
  expect(commands.toSorted((a, b) => (a.agent < b.agent ? -1 : 1))).toMatchObject([
    { ...step, agent: "press-1" },
    { ...step, agent: "press-2" },
  ]);
});

test("it is searched by host, person, time and outcome; a failure keeps its reason and its words", async () => {
  const cluster = await slice.cluster("mill");
  const agent = await slice.agent(cluster, "mill-1");
  await slice.apply("meal", web("meal:1"), { clusterId: cluster });
  await agent.workOff();
  await slice.settle();
  await slice.apply("meal", web("meal:2"), { policy: { autoRevert: false }, limits: { maxRetries: 0 } });
  for (const command of await agent.claim()) await agent.fail(command, "IMAGE_NOT_FOUND", "meal:2 is nowhere");
  const failed = await slice.commands.listCommands({ agentId: "mill-1", states: [State.FAILED] });
  expect(failed.commands).toMatchObject([
    { stack: "meal", revision: 2, reason: "IMAGE_NOT_FOUND", message: "meal:2 is nowhere", agent: "mill-1" },
  ]);
  const at = failed.commands[0]?.createdAt;
  const of = async (filter: object) =>
    (await slice.commands.listCommands({ stack: "meal", ...filter })).commands.map(({ revision }) => revision);
  expect(await of({ createdBy: "anna" })).toEqual([2, 1]);
  expect(await of({ createdBy: "bert" })).toEqual([]);
  expect(await of({ from: at })).toEqual([2]);
  expect(await of({ to: at })).toEqual([1]);
});

test("a removal is in the history too, and stays there when the stack is gone", async () => {
  const cluster = await slice.cluster("yard");
  const agent = await slice.agent(cluster, "yard-1");
  await slice.apply("barn", web("barn:1"), { clusterId: cluster });
  await agent.workOff();
  await slice.stacks.downStack({ id: "barn" });
  await agent.workOff();
  const { commands } = await slice.commands.listCommands({ stack: "barn", kinds: [Kind.REMOVE] });
  expect(commands).toMatchObject([{ agent: "yard-1", stack: "barn", revision: 1, state: State.SUCCEEDED }]);
});

test("a repeated try is of the same revision and rollout", async () => {
  const cluster = await slice.cluster("dock");
  const agent = await slice.agent(cluster, "dock-1");
  const { stack } = await slice.apply("ship", web("ship:1"), {
    ...{ clusterId: cluster, limits: { maxRetries: 0 }, policy: { autoRevert: false } },
  });
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing was claimed");
  await agent.fail(command, "IMAGE_NOT_FOUND");
  await slice.operating.retryCommand({ id: command.commandId });
  const { commands } = await slice.commands.listCommands({ stack: "ship" });
  const of = { revision: 1, rolloutId: stack?.rollout?.id };
  expect(commands).toMatchObject([{ ...of, retryOf: command.commandId }, of]);
});
