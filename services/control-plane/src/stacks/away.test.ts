/** Agents that are away for a moment, or for all of a rollout, or work for too long: what fails there, and what ends it. */
import { expect, test } from "@jest/globals";
import { Command_State } from "@bowline/contract/commands";
import { Rollout_State, Stack_State } from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import { startStacks } from "./stacks.fixture.ts";

const slice = await startStacks((await testDatabase()).db);
let named = 0;

/** A cluster with one agent. */
async function place() {
  named += 1;
  const cluster = await slice.cluster(`place-${named}`);
  return { cluster, stack: `shop-${named}`, agent: await slice.agent(cluster, "a") };
}

const web = (image: string): string => `services:\n  web:\n    image: ${image}\n`;
const minute = 60_000;
const ago = (ms: number) => new Date(Date.now() - ms);
const stateOf = async (name: string) => (await slice.stacks.getStack({ id: name })).state;

test("an agent that goes away in the middle of its part is waited for, so that its failure counts; one that stays away is not", async () => {
  const { cluster, stack, agent } = await place();
  await slice.apply(stack, web("web:1"), { clusterId: cluster });
  await agent.workOff();
  await slice.settle();
  const applied = await slice.apply(stack, web("web:2"), { limits: { maxRetries: 0 } });
  const [command] = await agent.claim();
  await agent.online(false, new Date());
  await slice.settle();
  expect(await stateOf(stack)).toBe(Stack_State.ROLLING_OUT);
  await agent.online(true);
  if (command !== undefined) await agent.fail(command, "UNHEALTHY", "web: exit code 1");
  await slice.settle();
  expect(await slice.rollouts.getRollout({ id: applied.stack?.rollout?.id ?? "" })).toMatchObject({
    ...{ state: Rollout_State.ROLLED_BACK, reason: "UNHEALTHY" },
  });
  await agent.workOff();
  await slice.settle();
  await slice.apply(stack, web("web:3"));
  await agent.claim();
  await agent.online(false, new Date(Date.now() - 61_000));
  await slice.settle();
  expect(await stateOf(stack)).toBe(Stack_State.RUNNING);
});

test("a part that fails after its rollout has ended, at an agent that was away, makes the stack FAILED until it is mended", async () => {
  const { cluster, stack, agent } = await place();
  await agent.online(false);
  await slice.apply(stack, web("web:1"), { clusterId: cluster, limits: { maxRetries: 0 } });
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({
    ...{ state: Stack_State.RUNNING, conditions: ["AGENT_OFFLINE"] },
  });
  await agent.online(true);
  const [command] = await agent.claim();
  if (command !== undefined) await agent.fail(command, "IMAGE_UNAVAILABLE", "image web:1: denied");
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({
    ...{ state: Stack_State.FAILED, reason: "IMAGE_UNAVAILABLE", message: "image web:1: denied" },
  });
  const { targets } = await slice.stacks.getStack({ id: stack });
  await slice.operating.retryCommand({ id: targets[0]?.commandId ?? "" });
  expect(await agent.workOff()).toEqual(["web:1"]);
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ state: Stack_State.RUNNING, reason: "" });
});

test("an agent that has just enrolled is counted on before its first session, so that its failure counts", async () => {
  const { cluster, stack, agent } = await place();
  await agent.connects(false);
  await slice.apply(stack, web("web:1"), { clusterId: cluster, limits: { maxRetries: 0 } });
  expect(await stateOf(stack)).toBe(Stack_State.ROLLING_OUT);
  await agent.connects(true);
  const [command] = await agent.claim();
  if (command !== undefined) await agent.fail(command, "IMAGE_UNAVAILABLE", "image web:1: denied");
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({
    ...{ state: Stack_State.FAILED, reason: "IMAGE_UNAVAILABLE", stableRevision: 0 },
  });
});

test("going back ends what an agent still works at: it waits for no deadline of the command", async () => {
  const { cluster, stack, agent } = await place();
  await slice.apply(stack, web("web:1"), { clusterId: cluster });
  await agent.workOff();
  await slice.settle();
  const policy = { minHealthyTime: { seconds: 0n }, healthyDeadline: { seconds: 60n } };
  await slice.apply(stack, web("web:2"), { policy });
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing is to be done");
  await agent.receive(command);
  const begun = new Date(Date.now() - 61_000);
  await slice.db.updateTable("stack_targets").set({ begun_at: begun }).where("agent_id", "=", agent.id).execute();
  await slice.db.updateTable("sessions").set({ opened_at: begun }).where("agent_id", "=", agent.id).execute();
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ revision: 1, reason: "HEALTHY_DEADLINE" });
  expect((await slice.operating.getCommand({ id: command.commandId })).state).toBe(Command_State.CANCELLING);
  await agent.cancelled(command);
  expect(await agent.workOff()).toEqual(["web:1"]);
  await slice.settle();
  expect(await stateOf(stack)).toBe(Stack_State.RUNNING);
});

test("a deadline that is missed says what the agent knows: why the last attempt failed, or what it waits for, with the last lines", async () => {
  const { cluster, stack, agent } = await place();
  const overdue = async () => {
    const at = { begun_at: ago(minute + 1_000) };
    await slice.db.updateTable("stack_targets").set(at).where("agent_id", "=", agent.id).execute();
    await slice.db.updateTable("sessions").set({ opened_at: at.begun_at }).where("agent_id", "=", agent.id).execute();
    await slice.settle();
    return (await slice.stacks.getStack({ id: stack })).message;
  };
  const policy = { minHealthyTime: { seconds: 0n }, healthyDeadline: { seconds: 60n } };
  await slice.apply(stack, web("web:1"), { clusterId: cluster, policy });
  const [first] = await agent.claim();
  if (first === undefined) throw new Error("nothing is to be done");
  await agent.receive(first);
  await agent.progress(first, [
    { workload: "web", phase: "STARTING", message: "is not healthy yet; it wrote:\nno till" },
    { workload: "db", phase: "PULLING", message: "31 of 74 MB" },
    { workload: "cache", phase: "READY", message: "" },
  ]);
  expect(await overdue()).toBe(
    "An agent's part was not healthy within 60 s.\na: web is not healthy yet; it wrote:\nno till\na: db pulling: 31 of 74 MB",
  );
  await slice.apply(stack, web("web:2"), { policy, limits: { maxRetries: 3 } });
  await agent.cancelled(first);
  const [second] = await agent.claim();
  if (second === undefined) throw new Error("nothing is to be done");
  await agent.failFirst(second, "START_FAILED", "workload web ended with exit code 3; it wrote:\nempty");
  expect(await overdue()).toBe(
    "An agent's part was not healthy within 60 s.\na: workload web ended with exit code 3; it wrote:\nempty",
  );
});

test("a new service is placed on an agent that is there, so that it runs", async () => {
  const { cluster, stack, agent } = await place();
  await agent.online(false);
  const other = await slice.agent(cluster, "b");
  const { stack: applied } = await slice.apply(stack, web("web:1"), { clusterId: cluster });
  expect(applied?.targets.map((target) => target.agent)).toEqual(["b"]);
  expect(await other.workOff()).toEqual(["web:1"]);
});

test("time in which an agent is away counts for no deadline: it has all of the healthy deadline once it is back", async () => {
  const { cluster, stack, agent } = await place();
  const other = await slice.agent(cluster, "b");
  const two = (image: string) => `${web(image)}    deploy: { replicas: 2 }\n`;
  await slice.apply(stack, two("web:1"), { clusterId: cluster });
  for (let round = 0; round < 2; round += 1) {
    for (const one of [agent, other]) await one.workOff();
    await slice.settle();
  }
  const policy = { minHealthyTime: { seconds: 0n }, healthyDeadline: { seconds: 60n }, maxParallel: 2 };
  await slice.apply(stack, two("web:2"), { policy });
  for (const one of [agent, other]) for (const command of await one.claim()) await one.receive(command);
  const begun = (at: Date) =>
    slice.db.updateTable("stack_targets").set({ begun_at: at }).where("agent_id", "=", other.id).execute();
  const opened = (at: Date) =>
    slice.db.updateTable("sessions").set({ opened_at: at }).where("agent_id", "=", other.id).execute();
  await begun(ago(10 * minute));
  await other.online(false, ago(9 * minute));
  await slice.settle();
  expect(await stateOf(stack)).toBe(Stack_State.ROLLING_OUT);
  await other.online(true);
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ state: Stack_State.ROLLING_OUT, revision: 2 });
  await opened(ago(minute + 1_000));
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ revision: 1, reason: "HEALTHY_DEADLINE" });
});

test("while a rollout is paused the healthy deadline stands still: resumed, what is under way has all of it again", async () => {
  const { cluster, stack, agent } = await place();
  await slice.apply(stack, web("web:1"), { clusterId: cluster });
  await agent.workOff();
  await slice.settle();
  const policy = { minHealthyTime: { seconds: 0n }, healthyDeadline: { seconds: 60n } };
  const { stack: applied } = await slice.apply(stack, web("web:2"), { policy });
  const id = applied?.rollout?.id ?? "";
  for (const command of await agent.claim()) await agent.receive(command);
  const begun = () =>
    slice.db
      .updateTable("stack_targets")
      .set({ begun_at: ago(minute + 1_000) })
      .where("agent_id", "=", agent.id)
      .execute();
  await slice.rollouts.pauseRollout({ id });
  await slice.db
    .updateTable("sessions")
    .set({ opened_at: ago(minute + 1_000) })
    .where("agent_id", "=", agent.id)
    .execute();
  await begun();
  await slice.settle();
  await slice.rollouts.resumeRollout({ id });
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ state: Stack_State.ROLLING_OUT, revision: 2 });
  await begun();
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ revision: 1, reason: "HEALTHY_DEADLINE" });
});

test("what ended badly in a rollout and is not started again fails at once, and not what ends so later", async () => {
  const { cluster, stack, agent } = await place();
  const policy = { minHealthyTime: { seconds: 60n } };
  await slice.apply(stack, web("web:1"), { clusterId: cluster });
  await agent.workOff();
  await slice.settle();
  const applied = await slice.apply(stack, web("web:2"), { policy });
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing was begun");
  await agent.succeed(command);
  await slice.settle();
  expect(await stateOf(stack)).toBe(Stack_State.ROLLING_OUT);
  await agent.observe(command.deploymentId, command.generation - 1, { exitCode: 3 }); // of what was
  await slice.settle();
  expect(await stateOf(stack)).toBe(Stack_State.ROLLING_OUT);
  await agent.observe(command.deploymentId, command.generation, { exitCode: 3 });
  await slice.settle();
  expect(await slice.rollouts.getRollout({ id: applied.stack?.rollout?.id ?? "" })).toMatchObject({
    ...{ state: Rollout_State.ROLLED_BACK, reason: "START_FAILED" },
    message: "workload web ended with exit code 3",
  });
  const [back] = await agent.claim();
  if (back === undefined) throw new Error("it does not go back");
  await agent.succeed(back);
  await slice.db
    .updateTable("stack_targets")
    .set({ healthy_since: new Date(0) })
    .execute();
  await slice.settle();
  await agent.observe(back.deploymentId, back.generation, { exitCode: 3 });
  expect(await stateOf(stack)).toBe(Stack_State.RUNNING);
});
