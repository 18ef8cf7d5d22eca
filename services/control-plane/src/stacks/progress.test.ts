/** The progress deadline: each instance that is newly healthy sets its clock back, and nothing else does. */
import { expect, test } from "@jest/globals";
import { Rollout_State } from "@bowline/contract/stacks";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { testDatabase } from "@bowline/testing";
import { startStacks } from "./stacks.fixture.ts";

const slice = await startStacks((await testDatabase()).db);
const deadlineSeconds = 1_000;
/** How far away a deadline is that has not passed yet: far more than a test takes, on whatever machine. */
const restSeconds = 200;
let named = 0;

/** A service of three whose second revision its one agent is just bringing. */
async function updating(more = "") {
  named += 1;
  const cluster = await slice.cluster(`place-${named}`);
  const agent = await slice.agent(cluster, "a");
  const stack = `shop-${named}`;
  const text = (image: string) => `services: { web: { image: "${image}", deploy: { replicas: 3 }${more} } }`;
  const { stack: first } = await slice.apply(stack, text("web:1"), { clusterId: cluster });
  const [before] = await agent.claim();
  if (before === undefined) throw new Error("nothing was begun");
  const old = [0, 1, 2].map((index) => running(index, 1));
  await agent.seen(before.deploymentId, before.generation, old);
  await agent.succeed(before);
  await slice.settle();
  const policy = { progressDeadline: { seconds: BigInt(deadlineSeconds) }, autoRevert: false };
  const { stack: applied } = await slice.apply(stack, text("web:2"), { policy });
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing was begun");
  await agent.receive(command);
  const id = applied?.rollout?.id ?? "";
  expect(id).not.toBe(first?.rollout?.id);
  return {
    /** The agent sees these now, the rest of the three as they were. */
    sees: (...instances: ReturnType<typeof running>[]) =>
      agent.seen(command.deploymentId, command.generation, [
        ...instances,
        ...old.filter(({ index }) => !instances.some((one) => one.index === index)),
      ]),
    /** So much time goes by for the deadline. */
    passes: async (seconds: number) => {
      const { progress_at: at } = await slice.db
        .selectFrom("stack_rollouts")
        .select("progress_at")
        .where("id", "=", id)
        .executeTakeFirstOrThrow();
      await slice.db
        .updateTable("stack_rollouts")
        .set({ progress_at: new Date(at.getTime() - seconds * 1000) })
        .where("id", "=", id)
        .execute();
      await slice.settle();
      return slice.rollouts.getRollout({ id });
    },
  };
}

/** Instance `index` as it was started at a second. */
function running(index: number, second: number, health = "UNKNOWN") {
  return { workload: "web", index, phase: "RUNNING", health, startedAt: timestampFromDate(new Date(second * 1000)) };
}

const goesOn = { state: Rollout_State.RUNNING };
const late = { state: Rollout_State.FAILED, reason: "PROGRESS_DEADLINE" };

test("an agent that replaces its instances one after the other has the time for each of them", async () => {
  const { sees, passes } = await updating();
  expect(await passes(deadlineSeconds - restSeconds)).toMatchObject(goesOn);
  await sees(running(0, 5));
  expect(await passes(deadlineSeconds - restSeconds)).toMatchObject(goesOn);
  await sees(running(0, 5), running(1, 6));
  expect(await passes(deadlineSeconds - restSeconds)).toMatchObject(goesOn);
  expect(await passes(restSeconds)).toMatchObject({
    ...late,
    message: `No instance became healthy within ${deadlineSeconds} s.`,
  });
});

test("one that starts over and over makes progress once; what ran before makes none", async () => {
  const { sees, passes } = await updating();
  await sees();
  expect(await passes(deadlineSeconds - restSeconds)).toMatchObject(goesOn);
  await sees(running(0, 5));
  expect(await passes(deadlineSeconds - restSeconds)).toMatchObject(goesOn);
  await sees(running(0, 6));
  await sees(running(0, 7));
  expect(await passes(restSeconds)).toMatchObject(late);
});

test("one with a health check makes progress when it passes, not when it starts", async () => {
  const { sees, passes } = await updating(`, healthcheck: { test: ["CMD", "true"] }`);
  expect(await passes(deadlineSeconds - restSeconds)).toMatchObject(goesOn);
  await sees(running(0, 5));
  expect(await passes(restSeconds / 2)).toMatchObject(goesOn);
  await sees(running(0, 5, "HEALTHY"));
  expect(await passes(deadlineSeconds - restSeconds)).toMatchObject(goesOn);
  await sees(running(0, 5, "HEALTHY"), running(1, 6));
  expect(await passes(restSeconds)).toMatchObject(late);
});
