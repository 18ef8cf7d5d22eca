/** The way back, what owes a removal, and steps that are refused. */
import { expect, test } from "@jest/globals";
import { Command_State } from "@bowline/contract/commands";
import { Rollout_State, RolloutPolicy_Strategy as Strategy, Stack_State } from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import { startStacks } from "./stacks.fixture.ts";

const slice = await startStacks((await testDatabase()).db);
let named = 0;

async function place(agents = 1) {
  named += 1;
  const cluster = await slice.cluster(`place-${named}`);
  const here = [];
  for (const name of ["a", "b"].slice(0, agents)) here.push(await slice.agent(cluster, name, { zone: name }));
  const [agent] = here;
  if (agent === undefined) throw new Error("no agent");
  return { cluster, stack: `shop-${named}`, agent, other: here[1] ?? agent };
}

const web = (image: string, more = ""): string => `services:\n  web:\n    image: ${image}\n${more}`;
const secret = "    secrets: [pw]\nsecrets: { pw: { file: ./pw } }\n";
const referred = (value: string) => ({ referred: [{ name: "./pw", content: Buffer.from(value) }] });
const values = (spec: { secretVersions: Record<string, string> }) => Object.values(spec.secretVersions);

test("abort ends the apply that is in flight: the way back is the agent's next command", async () => {
  const { cluster, stack, agent } = await place();
  await slice.apply(stack, web("web:1"), { clusterId: cluster });
  await agent.workOff();
  await slice.settle();
  const { stack: applied } = await slice.apply(stack, web("web:2"));
  const [bad] = await agent.claim();
  if (bad === undefined) throw new Error("nothing was begun");
  await slice.rollouts.abortRollout({ id: applied?.rollout?.id ?? "" });
  expect(await slice.commands.getCommand({ id: bad.commandId })).toMatchObject({ state: Command_State.CANCELLING });
  await agent.cancelled(bad);
  expect(await agent.workOff()).toEqual(["web:1"]);
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ state: Stack_State.RUNNING, revision: 1 });
});

test.each([Strategy.ROLLING, Strategy.BLUE_GREEN])(
  "going back brings the value of the secret that was stable, also where only that changed (%s)",
  async (strategy) => {
    const { cluster, stack, agent } = await place();
    const policy = { strategy, minHealthyTime: { seconds: 0n } };
    await slice.apply(stack, web("web:1", secret), { clusterId: cluster, ...referred("A") });
    const [first] = await agent.claim();
    if (first === undefined) throw new Error("nothing was begun");
    const stable = values(await agent.spec(first));
    await agent.succeed(first);
    await slice.settle();
    for (const image of ["web:2", "web:1"]) {
      await slice.apply(stack, web(image, secret), { limits: { maxRetries: 0 }, policy, ...referred(`B${image}`) });
      const [bad] = await agent.claim();
      if (bad === undefined) throw new Error("nothing was begun");
      expect(values(await agent.spec(bad))).not.toEqual(stable);
      await agent.fail(bad, "UNHEALTHY", "no");
      await slice.settle();
      const [back] = await agent.claim();
      if (back === undefined) throw new Error("it does not go back");
      const spec = await agent.spec(back);
      expect([spec.workloads.map((one) => one.image), values(spec)]).toEqual([["web:1"], stable]);
      await agent.succeed(back);
      await slice.settle();
      expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ state: Stack_State.RUNNING, revision: 1 });
    }
  },
);

test("what was stable is asked by no gate on the way back: it may not have what the new one was to be asked for", async () => {
  const { cluster, stack, agent, other } = await place(2);
  const two = (image: string) => web(image, "    ports: ['8080:80']\n    deploy: { replicas: 2 }\n");
  await slice.apply(stack, two("web:1"), { clusterId: cluster });
  for (let round = 0; round < 2; round += 1) {
    for (const one of [agent, other]) await one.workOff();
    await slice.settle();
  }
  const check = { case: "http" as const, value: { port: "80", path: "/new" } };
  const policy = { minHealthyTime: { seconds: 0n }, gates: [{ name: "smoke", service: "web", check }] };
  await slice.apply(stack, two("web:2"), { policy, limits: { maxRetries: 0 } });
  const [good] = await agent.claim();
  if (good === undefined) throw new Error("nothing was begun");
  expect((await agent.spec(good)).gates.map(({ name }) => name)).toEqual(["smoke"]);
  await agent.succeed(good);
  await slice.settle();
  const [bad] = await other.claim();
  if (bad !== undefined) await other.fail(bad, "GATE_FAILED", "smoke: 404");
  await slice.settle();
  const told: [image: string, gates: number][] = [];
  for (let round = 0; round < 2; round += 1) {
    for (const one of [agent, other])
      for (const back of await one.claim()) {
        const { workloads, gates } = await one.spec(back);
        told.push([workloads.map(({ image }) => image).join(" "), gates.length]);
        await one.succeed(back);
      }
    await slice.settle();
  }
  expect(told).toEqual([
    ["web:1", 0],
    ["web:1", 0],
  ]);
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ state: Stack_State.RUNNING, revision: 1 });
});

test("going back leaves each service where it was stable, also one that the newer revision had no more", async () => {
  const { cluster, stack, agent, other } = await place(2);
  const cordoned = (is: boolean) =>
    slice.db.updateTable("agents").set({ cordoned: is }).where("id", "=", agent.id).execute();
  const pinned = (image: string) =>
    web(image, "    deploy: { placement: { constraints: ['node.labels.zone == a'] } }\n");
  const db = "  db: { image: 'db:1', volumes: ['data:/data'] }\n";
  const volumes = "volumes: { data: {} }\n";
  await cordoned(true);
  await slice.apply(stack, `services:\n${db}${volumes}`, { clusterId: cluster });
  await cordoned(false);
  await other.workOff();
  await slice.settle();
  await slice.apply(stack, `${pinned("web:1")}${db}${volumes}`);
  await agent.workOff();
  await slice.settle();
  expect((await slice.stacks.getStack({ id: stack })).stableRevision).toBe(2);
  await slice.apply(stack, pinned("web:2"), { limits: { maxRetries: 0 } });
  const [bad] = await agent.claim();
  if (bad !== undefined) await agent.fail(bad, "UNHEALTHY", "no");
  await slice.settle();
  for (const one of [agent, other]) await one.workOff();
  await slice.settle();
  const { targets, revision } = await slice.stacks.getStack({ id: stack });
  const at = Object.fromEntries(
    targets.map((target) => [
      target.agent,
      target.services.filter(({ count }) => count > 0).map(({ service }) => service),
    ]),
  );
  expect([revision, at]).toEqual([2, { a: ["web"], b: ["db"] }]);
});

test("going back brings the restarts that were stable, so that what still runs of it is left alone", async () => {
  const { cluster, stack, agent, other } = await place(2);
  const two = (image: string) => web(image, "    deploy: { replicas: 2 }\n");
  await slice.apply(stack, two("web:1"), { clusterId: cluster });
  for (let round = 0; round < 2; round += 1) {
    for (const one of [agent, other]) await one.workOff();
    await slice.settle();
  }
  await slice.stacks.restartStack({ id: stack });
  await agent.workOff();
  await slice.apply(stack, two("web:2"), { limits: { maxRetries: 0 } });
  const [bad] = await agent.claim();
  if (bad !== undefined) await agent.fail(bad, "UNHEALTHY", "no");
  await slice.settle();
  const [back] = await agent.claim();
  if (back === undefined) throw new Error("it does not go back");
  expect((await agent.spec(back)).workloads.map(({ image, restartStamp }) => [image, restartStamp])).toEqual([
    ["web:1", ""],
  ]);
  await agent.succeed(back);
  await slice.settle();
  expect(await other.claim()).toEqual([]);
  expect((await slice.stacks.getStack({ id: stack })).state).toBe(Stack_State.RUNNING);
});

test("a revision whose secret is gone since is gone back to with the value that it had", async () => {
  const { cluster, stack, agent } = await place();
  const { id } = await slice.secrets.createSecret({ name: `db-${named}`, value: "x" });
  const external = `    secrets: [db-${named}]\nsecrets: { db-${named}: { external: true } }\n`;
  await slice.apply(stack, web("web:1", external), { clusterId: cluster });
  await agent.workOff();
  await slice.settle();
  await slice.apply(stack, web("web:2"), { limits: { maxRetries: 0 } });
  const [bad] = await agent.claim();
  await slice.secrets.deleteSecret({ id });
  if (bad !== undefined) await agent.fail(bad, "UNHEALTHY", "no");
  await slice.settle();
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ revision: 1, rollout: { cause: "revert" } });
});

test("a step that is refused ends its rollout, with why", async () => {
  const { cluster, stack, agent, other } = await place(2);
  const two = (image: string) => web(image, "    deploy: { replicas: 2 }\n");
  await slice.apply(stack, two("web:1"), { clusterId: cluster });
  for (let round = 0; round < 2; round += 1) {
    for (const one of [agent, other]) await one.workOff();
    await slice.settle();
  }
  const { stack: applied } = await slice.apply(stack, two("web:2"));
  // As if somebody had removed for good what its next step needs.
  await slice.db
    .updateTable("deployments")
    .set({ desired: "ABSENT" })
    .where("owner_id", "=", applied?.id ?? "")
    .execute();
  for (const one of [agent, other]) await one.workOff();
  await slice.settle();
  expect(await slice.rollouts.getRollout({ id: applied?.rollout?.id ?? "" })).toMatchObject({
    ...{ state: Rollout_State.FAILED, reason: "DEPLOYMENT_ABSENT" },
  });
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ reason: "DEPLOYMENT_ABSENT" });
});

test("a host that owes its removal gets the stack again once it has removed it", async () => {
  const { cluster, stack, agent, other } = await place(2);
  const both = web("web:1", "    deploy: { replicas: 2 }\n");
  await slice.apply(stack, both, { clusterId: cluster });
  for (const one of [agent, other]) await one.workOff();
  await slice.settle();
  await other.online(false);
  await slice.apply(stack, web("web:1", "    deploy: { placement: { constraints: ['node.labels.zone == a'] } }\n"));
  await agent.workOff();
  await slice.settle();
  await slice.apply(stack, web("web:2", "    deploy: { replicas: 2 }\n"));
  await agent.workOff();
  await slice.settle();
  expect((await slice.stacks.getStack({ id: stack })).state).toBe(Stack_State.RUNNING);
  await other.online(true);
  expect(await other.workOff()).toEqual(["absent"]);
  await slice.placeStacks();
  expect(await other.workOff()).toEqual(["web:2"]);
  await slice.settle();
  const { targets, state } = await slice.stacks.getStack({ id: stack });
  expect([targets.length, state]).toEqual([2, Stack_State.RUNNING]);
});

const data = "    volumes: ['v:/v']\nvolumes: { v: {} }\n";

test("down, and then down with volumes: DELETED only when the volumes are gone, too", async () => {
  const { cluster, stack, agent } = await place();
  const { stack: made } = await slice.apply(stack, web("web:1", data), { clusterId: cluster });
  const id = made?.id ?? "";
  await agent.workOff();
  await slice.settle();
  await slice.stacks.downStack({ id });
  const [first] = await agent.claim();
  await slice.stacks.downStack({ id, removeVolumes: true });
  if (first !== undefined) await agent.succeed(first);
  expect((await slice.stacks.getStack({ id })).state).toBe(Stack_State.DELETING);
  const [second] = await agent.claim();
  if (second === undefined) throw new Error("nothing removes the volumes");
  expect((await agent.spec(second)).removeVolumes).toBe(true);
  await agent.succeed(second);
  expect((await slice.stacks.getStack({ id })).state).toBe(Stack_State.DELETED);
});

test("a removal that a host could not do yet says why, until it is done", async () => {
  const { cluster, stack, agent } = await place();
  const { stack: made } = await slice.apply(stack, web("web:1"), { clusterId: cluster });
  const id = made?.id ?? "";
  await agent.workOff();
  await slice.settle();
  await slice.stacks.downStack({ id });
  const [removal] = await agent.claim();
  if (removal !== undefined) await agent.fail(removal, "START_FAILED", "network back: somebody is in it");
  expect((await slice.stacks.getStack({ id })).targets).toMatchObject([
    { reason: "START_FAILED", message: "network back: somebody is in it" },
  ]);
});

test("volumes that stayed are removed by a later down, by name, of every stack that had it; asked again nothing is", async () => {
  const { cluster, stack, agent } = await place();
  for (let times = 0; times < 2; times += 1) {
    await slice.apply(stack, web("web:1", data), { clusterId: cluster });
    await agent.workOff();
    await slice.settle();
    await slice.stacks.downStack({ id: stack });
    await agent.workOff();
  }
  const { id, state } = await slice.stacks.downStack({ id: stack, removeVolumes: true });
  expect(state).toBe(Stack_State.DELETING);
  expect(await agent.workOff()).toEqual(["absent", "absent"]);
  expect((await slice.stacks.getStack({ id })).state).toBe(Stack_State.DELETED);
  expect((await slice.stacks.downStack({ id: stack, removeVolumes: true })).state).toBe(Stack_State.DELETED);
  expect(await agent.claim()).toEqual([]);
});
