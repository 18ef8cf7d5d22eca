/** Limits of a stack's commands, and who goes first where an agent has no place left. */
import { beforeAll, expect, test } from "@jest/globals";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Command_State as State } from "@bowline/contract/commands";
import type { Stack } from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import { type StackAgent, startStacks, type Stacking } from "./stacks.fixture.ts";

let slice: Stacking;
let made = 0;

beforeAll(async () => {
  slice = await startStacks((await testDatabase()).db);
});

async function host(): Promise<{ clusterId: string; agent: StackAgent; name: (stack: string) => string }> {
  made += 1;
  const run = made;
  const clusterId = await slice.cluster(`host-${run}`);
  return { clusterId, agent: await slice.agent(clusterId, `one-${run}`), name: (stack) => `${stack}-${run}` };
}

const web = (image: string): string => `services: {web: {image: "${image}"}}`;
const shown = ({ limits }: Stack) => ({
  maxRetries: limits?.maxRetries,
  priority: limits?.priority,
  runSeconds: limits?.runTimeout && durationMs(limits.runTimeout) / 1000,
});
const newest = async (stack: string) => (await slice.commands.listCommands({ stack, pageSize: 1 })).commands[0];

test("a command of a stack has 5 minutes and 3 retries by default, and what its stack says otherwise", async () => {
  const { clusterId, agent, name } = await host();
  const { stack } = await slice.apply(name("shop"), web("web:1"), { clusterId });
  const defaults = { maxRetries: 3, priority: 5, runSeconds: 300 };
  expect(stack && shown(stack)).toEqual(defaults);
  expect(await newest(name("shop"))).toMatchObject({ maxRetries: 3, priority: 5, runTimeout: { seconds: 300n } });
  await agent.workOff();
  await slice.settle();

  const limits = { runTimeout: { seconds: 900n }, maxRetries: 1, priority: 2 };
  const changed = await slice.apply(name("shop"), web("web:2"), { limits });
  expect(changed.stack && shown(changed.stack)).toEqual({ maxRetries: 1, priority: 2, runSeconds: 900 });
  expect(await newest(name("shop"))).toMatchObject(limits);
  const [command] = await agent.claim();
  expect(command).toMatchObject({ runTimeoutMs: 900_000 });
  if (command === undefined) return;
  expect((await agent.spec(command)).runTimeout?.seconds).toBe(900n);
  await agent.succeed(command);
  await slice.settle();

  await slice.apply(name("shop"), web("web:3"));
  expect(await newest(name("shop"))).toMatchObject(limits); // an apply that names none leaves them
  await slice.stacks.downStack({ id: name("shop") });
  expect(await newest(name("shop"))).toMatchObject({ ...limits, priority: 0 });
});

test("of two stacks that wait for one agent the more urgent one goes first", async () => {
  const { clusterId, agent, name } = await host();
  for (const [stack, priority] of [
    ["slow", 7],
    ["plain", 5],
    ["quick", 1],
  ] as const)
    await slice.apply(name(stack), web(stack), { clusterId, limits: { priority } });
  const order: string[] = [];
  for (let turn = 0; turn < 3; turn += 1) {
    for (const command of await agent.claim(1)) {
      order.push(...(await agent.spec(command)).workloads.map(({ image }) => image));
      await agent.succeed(command);
    }
  }
  expect(order).toEqual(["quick", "plain", "slow"]);
});

test("a stop of another stack goes past applies that wait, where the agent has no place left", async () => {
  const { clusterId, agent, name } = await host();
  await slice.apply(name("old"), web("old:1"), { clusterId });
  await agent.workOff();
  await slice.settle();
  await slice.apply(name("busy"), web("busy:1"), { clusterId });
  expect(await agent.claim(1)).toHaveLength(1); // its only place
  await slice.apply(name("next"), web("next:1"), { clusterId, limits: { priority: 0 } });
  expect(await agent.claim(1)).toEqual([]);
  await slice.stacks.stopStack({ id: name("old") });
  expect(await agent.claim(1)).toMatchObject([{ reduces: true, commandId: (await newest(name("old")))?.id }]);
  await slice.stacks.downStack({ id: name("old") }); // more reducing than the stop that is in flight
  expect((await newest(name("next")))?.state).toBe(State.READY);
});

test.each(["stop", "down"] as const)(
  "a %s of a stack ends the apply that is in flight, and goes before others that waited longer",
  async (verb) => {
    const { clusterId, agent, name } = await host();
    await slice.apply(name("shop"), web("shop:1"), { clusterId });
    const [applying] = await agent.claim(1);
    if (applying === undefined) throw new Error("nothing was claimed");
    await slice.apply(name("other"), web("other:1"), { clusterId, limits: { priority: 0 } });
    if (verb === "stop") await slice.stacks.stopStack({ id: name("shop") });
    else await slice.stacks.downStack({ id: name("shop") });
    const [ending] = (await slice.commands.listCommands({ stack: name("shop"), states: [State.CANCELLING] })).commands;
    expect(ending?.id).toBe(applying.commandId);
    await agent.cancelled(applying);
    expect(await agent.claim(1)).toMatchObject([{ reduces: true, deploymentId: applying.deploymentId }]);
    expect((await newest(name("other")))?.state).toBe(State.READY);
  },
);
