/** What hosts owe that stay away for longer than a command waits: they do it when they return, and once. */
import { expect, test } from "@jest/globals";
import { Command_State } from "@bowline/contract/commands";
import { Rollout_State, RolloutPolicy_Strategy, Stack_State, StackTarget_State } from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import { startStacks } from "./stacks.fixture.ts";

const slice = await startStacks((await testDatabase()).db);
let named = 0;

const web = (image: string): string => `services:\n  web:\n    image: ${image}\n    deploy: {replicas: 2}\n`;

const atOnce = { maxParallel: 2, minHealthyTime: { seconds: 0n } };

/** A stack whose first revision runs at two agents. */
async function running() {
  named += 1;
  const [name, cluster] = [`shop-${named}`, await slice.cluster(`place-${named}`)];
  const [here, away] = [await slice.agent(cluster, "here"), await slice.agent(cluster, "away")];
  await slice.apply(name, web("web:1"), { clusterId: cluster, policy: atOnce });
  for (const agent of [here, away]) expect(await agent.workOff()).toEqual(["web:1"]);
  await slice.settle();
  const get = () => slice.stacks.getStack({ id: name });
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, stableRevision: 1 });
  const targetOf = async (agent: { id: string }) => {
    const found = (await get()).targets.find((target) => target.agentId === agent.id);
    if (found === undefined) throw new Error(`nothing of ${name} is at ${agent.id}`);
    return found;
  };
  const commandOf = async (agent: { id: string }) =>
    slice.operating.getCommand({ id: (await targetOf(agent)).commandId });
  return { name, cluster, here, away, get, targetOf, commandOf };
}

test("a removal waits for its host however long that stays away, and the stack says who owes it", async () => {
  const { name, here, away, get } = await running();
  await away.leaves();
  await slice.stacks.downStack({ id: name });
  await here.workOff();
  for (let round = 0; round < 3; round += 1) expect(await slice.afterDays()).toBe(0);
  expect(await get()).toMatchObject({ state: Stack_State.DELETING, owingAgents: ["away"] });
  expect(await away.returns()).toBe(0); // it is still there
  expect(await away.workOff()).toEqual(["absent"]);
  const { stacks } = await slice.stacks.listStacks({ states: [Stack_State.DELETED] });
  expect(stacks.map((stack) => stack.name)).toContain(name);
});

test("a removal that waits behind what its host had in flight is next when that is given up", async () => {
  const { name, here, away, get } = await running();
  await slice.apply(name, web("web:2"), { policy: atOnce });
  const [begun] = await away.claim();
  if (begun === undefined) throw new Error("nothing was begun");
  await away.receive(begun);
  await away.leaves();
  await slice.stacks.downStack({ id: name });
  await here.workOff();
  expect(await slice.afterDays()).toBe(1);
  expect((await slice.operating.getCommand({ id: begun.commandId })).state).toBe(Command_State.LOST);
  expect(await get()).toMatchObject({ state: Stack_State.DELETING, owingAgents: ["away"] });
  expect(await away.returns()).toBe(0);
  expect(await away.workOff()).toEqual(["absent"]);
});

test("a part that lapsed while its host was away makes nothing FAILED, and is asked again once when that returns", async () => {
  const { name, here, away, get, targetOf, commandOf } = await running();
  await away.leaves();
  await away.online(false);
  await slice.apply(name, web("web:2"));
  await here.workOff();
  await slice.settle();
  expect(await slice.afterDays()).toBe(1);
  const lapsed = await commandOf(away);
  expect(lapsed).toMatchObject({ state: Command_State.EXPIRED, reason: "OFFLINE_LIFE_EXCEEDED" });
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, reason: "", conditions: ["AGENT_OFFLINE"] });
  expect(await targetOf(away)).toMatchObject({ state: StackTarget_State.PENDING, reason: "AGENT_OFFLINE" });

  expect(await away.returns()).toBe(1);
  expect(await away.returns()).toBe(0);
  expect(await commandOf(away)).toMatchObject({
    ...{ state: Command_State.READY, createdBy: "agent-returned", generation: lapsed.generation + 1, revision: 2 },
  });
  expect(await away.workOff()).toEqual(["web:2"]);
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, conditions: [] });
  expect(await targetOf(away)).toMatchObject({ state: StackTarget_State.DONE, revision: 2 });
});

test("what a host had in flight when it went away for good is asked again too; only the newest wish is", async () => {
  const { name, here, away, targetOf } = await running();
  await slice.apply(name, web("web:2"), { policy: atOnce });
  const [begun] = await away.claim();
  if (begun === undefined) throw new Error("nothing was begun");
  await away.receive(begun);
  await away.leaves();
  await away.online(false);
  await here.workOff();
  await slice.settle();
  expect(await slice.afterDays()).toBe(1);
  expect((await slice.operating.getCommand({ id: begun.commandId })).state).toBe(Command_State.LOST);
  expect(await away.returns()).toBe(1);
  await away.leaves();
  await away.online(false);
  await slice.apply(name, web("web:3"));
  await here.workOff();
  await slice.settle();
  expect(await away.returns()).toBe(0); // what it owes waits for it already
  expect(await away.workOff()).toEqual(["web:3"]);
  expect(await targetOf(away)).toMatchObject({ state: StackTarget_State.DONE, revision: 3 });
});

test("each absence counts anew, and what fails when it is asked again, or what somebody has cancelled, stays so", async () => {
  const { name, here, away, get, commandOf } = await running();
  await away.leaves();
  await away.online(false);
  await slice.apply(name, web("web:2"), { limits: { maxRetries: 0 } });
  await here.workOff();
  await slice.settle();
  for (let absence = 0; absence < 2; absence += 1) {
    expect(await slice.afterDays()).toBe(1);
    expect(await away.returns()).toBe(1);
    await away.leaves();
  }
  await away.returns();
  const [command] = await away.claim();
  if (command === undefined) throw new Error("nothing is asked");
  await away.fail(command, "IMAGE_UNAVAILABLE", "image web:2: denied");
  expect(await get()).toMatchObject({ state: Stack_State.FAILED, reason: "IMAGE_UNAVAILABLE" });
  await away.leaves();
  await slice.afterDays();
  expect(await away.returns()).toBe(0);

  const { id } = await slice.operating.retryCommand({ id: (await commandOf(away)).id });
  await away.leaves();
  await slice.operating.cancelCommand({ id });
  await slice.afterDays();
  expect(await away.returns()).toBe(0);
  expect(await get()).toMatchObject({ state: Stack_State.FAILED, reason: "CANCEL_REQUESTED" });
});

test("a host whose part lapses in the middle of a rollout does not fail it, and gets what the rollout brings", async () => {
  const { name, here, away, get, targetOf } = await running();
  const strategy = RolloutPolicy_Strategy.BLUE_GREEN;
  const policy = { ...atOnce, strategy, autoPromote: false, keepOld: { seconds: 0n } };
  await slice.apply(name, web("web:2"), { policy });
  const [beside] = await away.claim();
  if (beside === undefined) throw new Error("nothing was begun beside what runs");
  await away.leaves();
  await away.online(false);
  await here.workOff();
  await slice.settle();
  expect(await slice.afterDays()).toBe(1);
  await slice.settle();
  const rollout = (await get()).rollout;
  expect(rollout).toMatchObject({ state: Rollout_State.RUNNING, reason: "" });
  await slice.rollouts.promoteRollout({ id: rollout?.id ?? "" });
  for (const _ of ["switch", "update"]) {
    await slice.settle();
    await here.workOff();
  }
  await slice.settle();
  expect((await slice.rollouts.getRollout({ id: rollout?.id ?? "" })).state).toBe(Rollout_State.SUCCEEDED);
  expect(await away.returns()).toBe(0); // the end of the rollout waits for it
  await away.workOff();
  expect(await targetOf(away)).toMatchObject({ state: StackTarget_State.DONE, revision: 2 });
});
