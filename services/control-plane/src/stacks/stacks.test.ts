/** Stacks over a real database; what agents do is the engine's own receipts and results. */
import { beforeAll, expect, test } from "@jest/globals";
import type { Database } from "@bowline/db";
import { toJsonString } from "@bufbuild/protobuf";
import {
  ApplyStackResponseSchema,
  PlannedChange_Action,
  Rollout_State,
  Stack_State,
  StackTarget_State,
} from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import type { Kysely } from "kysely";
import { reasonOf } from "../platform/in-process.ts";
import { startStacks, type Stacking } from "./stacks.fixture.ts";

let db: Kysely<Database>;
let slice: Stacking;
let named = 0;

beforeAll(async () => {
  ({ db } = await testDatabase());
  slice = await startStacks(db);
});

/** A cluster with agents of these names. */
async function place(...names: string[]) {
  named += 1;
  const name = `place-${named}`;
  const cluster = await slice.cluster(name);
  const agents = [];
  for (const one of names) agents.push(await slice.agent(cluster, one, { zone: one }));
  return { cluster, stack: `shop-${named}`, agents };
}

const web = (image: string, more = ""): string => `services:\n  web:\n    image: ${image}\n${more}`;
const spread = (image: string, replicas = 3): string => web(image, `    deploy: { replicas: ${replicas} }\n`);

const stateOf = async (name: string) => (await slice.stacks.getStack({ id: name })).state;

test("a stack runs when each agent that is to has it, one agent after the other", async () => {
  const { cluster, stack, agents } = await place("a", "b", "c");
  const { plan } = await slice.apply(stack, spread("web:1"), { clusterId: cluster });
  expect(plan.map(({ agent, action }) => [agent, action])).toEqual(
    ["a", "b", "c"].map((agent) => [agent, PlannedChange_Action.CREATE]),
  );
  const order: string[] = [];
  for (let round = 0; round < 3; round += 1) {
    const claimed = await Promise.all(agents.map(async (agent) => ({ agent, commands: await agent.claim() })));
    const [one, ...others] = claimed.filter(({ commands }) => commands.length > 0);
    expect(others).toEqual([]);
    order.push(one?.agent.name ?? "");
    for (const command of one?.commands ?? []) await one?.agent.succeed(command);
    await slice.settle();
  }
  expect(order.toSorted()).toEqual(["a", "b", "c"]);
  const shown = await slice.stacks.getStack({ id: stack });
  expect(shown).toMatchObject({ state: Stack_State.RUNNING, revision: 1, stableRevision: 1 });
  expect(shown.rollout).toMatchObject({ state: Rollout_State.SUCCEEDED, done: 3, total: 3, cause: "apply" });
  expect(shown.targets.map(({ state, services }) => [state, services[0]?.image])).toEqual(
    agents.map(() => [StackTarget_State.DONE, "web:1"]),
  );
});

test("applying the same again changes nothing and makes no revision; a changed service is the only one that is replaced", async () => {
  const { cluster, stack, agents } = await place("a");
  const both = (image: string) => `${web(image)}  db:\n    image: db:1\n`;
  await slice.apply(stack, both("web:1"), { clusterId: cluster });
  expect(await agents[0]?.workOff()).toEqual(["db:1 web:1"]);
  await slice.settle();
  const again = await slice.apply(stack, both("web:1"));
  expect(again.stack).toMatchObject({ revision: 1, state: Stack_State.RUNNING });
  expect(again.plan.map(({ action }) => action)).toEqual([PlannedChange_Action.KEEP, PlannedChange_Action.KEEP]);
  expect(await agents[0]?.claim()).toEqual([]);
  const dry = await slice.apply(stack, both("web:2"), { dryRun: true });
  expect(dry.plan.map(({ service, action }) => [service, action])).toEqual([
    ["db", PlannedChange_Action.KEEP],
    ["web", PlannedChange_Action.REPLACE],
  ]);
  expect(dry.changes.map(({ path, before, after }) => [path, before, after])).toEqual([
    ["services/web/image", '"web:1"', '"web:2"'],
  ]);
  expect((await slice.stacks.getStack({ id: stack })).revision).toBe(1);
});

test("an agent that is away holds nobody up, and follows when it returns", async () => {
  const { cluster, stack, agents } = await place("a", "b", "c");
  await agents[1]?.online(false);
  await slice.apply(stack, spread("web:1"), { clusterId: cluster });
  for (const agent of [agents[0], agents[2]]) {
    await agent?.workOff();
    await slice.settle();
  }
  for (const agent of [agents[0], agents[2]]) {
    await agent?.workOff();
    await slice.settle();
  }
  const shown = await slice.stacks.getStack({ id: stack });
  expect(shown).toMatchObject({ state: Stack_State.RUNNING, conditions: ["AGENT_OFFLINE"] });
  expect(shown.targets[1]).toMatchObject({ agent: "b", state: StackTarget_State.PENDING, reason: "AGENT_OFFLINE" });
  await agents[1]?.online(true);
  expect(await agents[1]?.workOff()).toEqual(["web:1"]);
  expect((await slice.stacks.getStack({ id: stack })).targets[1]).toMatchObject({ state: StackTarget_State.DONE });
});

test("a failure goes back by itself to what was stable, and leaves the agents alone that it did not reach", async () => {
  const { cluster, stack, agents } = await place("a", "b");
  await slice.apply(stack, spread("web:1", 2), { clusterId: cluster });
  for (let round = 0; round < 2; round += 1) {
    for (const agent of agents) await agent.workOff();
    await slice.settle();
  }
  expect(await stateOf(stack)).toBe(Stack_State.RUNNING);
  const applied = await slice.apply(stack, spread("web:2", 2), { limits: { maxRetries: 0 } });
  const failing = applied.stack?.rollout?.id ?? "";
  const claims = await Promise.all(agents.map(async (agent) => ({ agent, commands: await agent.claim() })));
  const begun = claims.filter(({ commands }) => commands.length > 0);
  expect(begun).toHaveLength(1);
  const [first] = begun;
  for (const command of first?.commands ?? []) await first?.agent.fail(command, "UNHEALTHY", "web: exit code 1");
  await slice.settle();
  expect(await slice.rollouts.getRollout({ id: failing })).toMatchObject({
    ...{ state: Rollout_State.ROLLED_BACK, reason: "UNHEALTHY", message: "web: exit code 1" },
  });
  expect(await first?.agent.workOff()).toEqual(["web:1"]);
  await slice.settle();
  const other = agents.find((agent) => agent !== first?.agent);
  expect(await other?.workOff()).toEqual([]);
  const shown = await slice.stacks.getStack({ id: stack });
  expect(shown).toMatchObject({ state: Stack_State.RUNNING, revision: 1, reason: "UNHEALTHY" });
  expect(shown.rollout).toMatchObject({ cause: "revert", state: Rollout_State.SUCCEEDED });
});

test("going back that fails does not go back again", async () => {
  const { cluster, stack, agents } = await place("a");
  const [agent] = agents;
  const limits = { maxRetries: 0 };
  await slice.apply(stack, web("web:1"), { clusterId: cluster, limits });
  await agent?.workOff();
  await slice.settle();
  await slice.apply(stack, web("web:2"));
  for (let round = 0; round < 4; round += 1) {
    for (const command of (await agent?.claim()) ?? []) await agent?.fail(command, "START_FAILED");
    await slice.settle();
  }
  const { rollouts } = await slice.rollouts.listRollouts({ stackId: stack });
  expect(rollouts.map(({ cause, state }) => [cause, state])).toEqual([
    ["revert", Rollout_State.FAILED],
    ["apply", Rollout_State.ROLLED_BACK],
    ["apply", Rollout_State.SUCCEEDED],
  ]);
  expect(await stateOf(stack)).toBe(Stack_State.FAILED);
  // Mended by hand, it is applied again.
  await slice.apply(stack, web("web:2"));
  expect(await agent?.workOff()).toEqual(["web:2"]);
  await slice.settle();
  expect(await stateOf(stack)).toBe(Stack_State.RUNNING);
});

test("the next agent begins only after the one before was healthy for as long as the policy says", async () => {
  const { cluster, stack, agents } = await place("a", "b");
  const policy = { minHealthyTime: { seconds: 3_600n } };
  await slice.apply(stack, spread("web:1", 2), { clusterId: cluster, policy });
  const claims = await Promise.all(agents.map(async (agent) => ({ agent, commands: await agent.claim() })));
  const [first] = claims.filter(({ commands }) => commands.length > 0);
  const [command] = first?.commands ?? [];
  if (first === undefined || command === undefined) throw new Error("nothing was begun");
  await first.agent.succeed(command);
  await slice.settle();
  const other = agents.find((agent) => agent !== first.agent);
  expect(await other?.claim()).toEqual([]);
  const target = () =>
    db
      .selectFrom("stack_targets")
      .selectAll()
      .where("deployment_id", "=", command.deploymentId)
      .executeTakeFirstOrThrow();
  await first.agent.observe(command.deploymentId, command.generation, "UNHEALTHY");
  expect((await target()).healthy_since).toBeNull();
  await first.agent.observe(command.deploymentId, command.generation, "HEALTHY");
  const since = new Date((await target()).healthy_since?.getTime() ?? 0);
  expect(since.getTime()).toBeGreaterThan(0);
  await db
    .updateTable("stack_targets")
    .set({ healthy_since: new Date(since.getTime() - 3_600_000) })
    .where("deployment_id", "=", command.deploymentId)
    .execute();
  await slice.settle();
  expect(await other?.workOff()).toEqual(["web:1"]);
});

test("a paused rollout begins nothing; resumed, it goes on; aborted, it goes back", async () => {
  const { cluster, stack, agents } = await place("a", "b");
  await slice.apply(stack, spread("web:1", 2), { clusterId: cluster });
  for (let round = 0; round < 2; round += 1) {
    for (const agent of agents) await agent.workOff();
    await slice.settle();
  }
  const id = (await slice.apply(stack, spread("web:2", 2))).stack?.rollout?.id ?? "";
  expect(await slice.rollouts.pauseRollout({ id })).toMatchObject({ state: Rollout_State.PAUSED });
  expect(await reasonOf(slice.rollouts.promoteRollout({ id }))).toBe("ROLLOUT_NOT_PROMOTABLE");
  const ran: string[] = [];
  for (const agent of agents) ran.push(...(await agent.workOff()));
  await slice.settle();
  for (const agent of agents) ran.push(...(await agent.workOff()));
  expect(ran).toEqual(["web:2"]);
  await slice.rollouts.resumeRollout({ id });
  await slice.settle();
  expect((await slice.stacks.getStack({ id: stack })).rollout).toMatchObject({ state: Rollout_State.RUNNING, done: 1 });
  expect(await slice.rollouts.abortRollout({ id })).toMatchObject({ state: Rollout_State.ABORTED });
  for (let round = 0; round < 3; round += 1) {
    for (const agent of agents) await agent.workOff();
    await slice.settle();
  }
  expect(await stateOf(stack)).toBe(Stack_State.RUNNING);
  const { targets } = await slice.stacks.getStack({ id: stack });
  expect(targets.map((target) => target.services[0]?.image)).toEqual(["web:1", "web:1"]);
  expect(await reasonOf(slice.rollouts.pauseRollout({ id }))).toBe("ROLLOUT_ENDED");
  expect(await reasonOf(slice.rollouts.promoteRollout({ id }))).toBe("ROLLOUT_ENDED");
});

test("down removes it everywhere; who is away owes it until it returns", async () => {
  const { cluster, stack, agents } = await place("a", "b");
  await slice.apply(stack, spread("web:1", 2), { clusterId: cluster });
  for (let round = 0; round < 2; round += 1) {
    for (const agent of agents) await agent.workOff();
    await slice.settle();
  }
  await agents[1]?.online(false);
  const { id } = await slice.stacks.downStack({ id: stack, removeVolumes: true });
  expect(await agents[0]?.workOff()).toEqual(["absent"]);
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({
    state: Stack_State.DELETING,
    owingAgents: ["b"],
  });
  expect(await reasonOf(slice.apply(stack, web("web:3")))).toBe("STACK_DELETING");
  await agents[1]?.online(true);
  expect(await agents[1]?.workOff()).toEqual(["absent"]);
  await expect(slice.stacks.getStack({ id: stack })).rejects.toThrow(/no stack/);
  expect(await slice.stacks.getStack({ id })).toMatchObject({ state: Stack_State.DELETED });
  // Its name is free again.
  await slice.apply(stack, web("web:4"), { clusterId: cluster });
  expect(await stateOf(stack)).toBe(Stack_State.ROLLING_OUT);
});

test("a stack waits for an agent, and what an agent that is gone for good had goes to another", async () => {
  const { cluster, stack } = await place();
  const applied = await slice.apply(stack, web("web:1"), { clusterId: cluster });
  expect(applied.stack).toMatchObject({ reason: "NO_AGENT", conditions: ["NO_AGENT"], targets: [] });
  const first = await slice.agent(cluster, "first");
  await slice.placeStacks();
  expect(await first.workOff()).toEqual(["web:1"]);
  await slice.settle();
  const second = await slice.agent(cluster, "second");
  await slice.placeStacks();
  expect(await second.workOff()).toEqual([]);
  await slice.retire(first.id);
  await slice.placeStacks();
  expect(await second.workOff()).toEqual(["web:1"]);
});

test("stop, start, restart and roll back", async () => {
  const { cluster, stack, agents } = await place("a");
  const [agent] = agents;
  const done = async (): Promise<string[]> => {
    const ran = (await agent?.workOff()) ?? [];
    await slice.settle();
    return ran;
  };
  await slice.apply(stack, web("web:1"), { clusterId: cluster });
  await done();
  await slice.apply(stack, web("web:2"));
  await done();
  await slice.stacks.stopStack({ id: stack });
  expect(await done()).toEqual(["web:2"]);
  expect(await stateOf(stack)).toBe(Stack_State.STOPPED);
  await slice.stacks.startStack({ id: stack });
  expect(await done()).toEqual(["web:2"]);
  expect(await stateOf(stack)).toBe(Stack_State.RUNNING);
  await slice.stacks.restartStack({ id: stack, services: ["web"] });
  expect(await done()).toEqual(["web:2"]);
  expect(await reasonOf(slice.stacks.restartStack({ id: stack, services: ["webb"] }))).toBe("SERVICE_UNKNOWN");
  await slice.stacks.rollbackStack({ id: stack });
  expect(await done()).toEqual(["web:1"]);
  expect(await slice.stacks.getStack({ id: stack })).toMatchObject({ revision: 1, state: Stack_State.RUNNING });
  const { revisions } = await slice.stacks.listStackRevisions({ stackId: stack });
  expect(revisions.map(({ number, services, normalised }) => [number, services, normalised])).toEqual([
    [2, ["web"], ""],
    [1, ["web"], ""],
  ]);
  const made = await slice.stacks.getStackRevision({ stackId: stack, number: 1 });
  expect(made).toMatchObject({ ...revisions[1], normalised: expect.stringMatching(/^ +image: web:1$/m) });
  const none = slice.stacks.getStackRevision({ stackId: stack, number: 3 });
  expect(await reasonOf(none)).toBe("NOT_FOUND");
  const { changes } = await slice.stacks.diffStack({ id: stack, from: 2, to: 1 });
  expect(changes.map(({ path }) => path)).toEqual(["services/web/image"]);
  const { rollouts } = await slice.rollouts.listRollouts({ stackId: stack });
  expect(rollouts.map(({ cause }) => cause)).toEqual(["rollback", "restart", "start", "stop", "apply", "apply"]);
});

test("a stranger's file gets neither the host's root nor its network nor more rights", async () => {
  const { cluster, stack } = await place("a");
  const asks = ["volumes: ['/:/host']", "network_mode: host", "privileged: true", "cap_add: [SYS_ADMIN]", "pid: host"];
  for (const ask of asks) {
    const text = web("web:1", `    ${ask}\n`);
    expect(await reasonOf(slice.apply(stack, text, { clusterId: cluster }))).toBe("COMPOSE_REFUSED_BY_POLICY");
  }
  await expect(slice.stacks.getStack({ id: stack })).rejects.toThrow(/no stack/);
});

test("what is wrong with the files is said with its place, and all of it at once", async () => {
  const content = Buffer.from(web("web:1", "    imagee: x\n    ports: [notaport]\n"));
  const { errors } = await slice.viewer.validateStack({ source: { files: [{ name: "compose.yaml", content }] } });
  expect(errors.map(({ path, line }) => [path, line])).toContainEqual(["services.web.imagee", 4]);
  const { cluster } = await place("a");
  expect(await reasonOf(slice.apply("wrong", "services: {}", { clusterId: cluster }))).toBe("COMPOSE_INVALID");
});

test("the value of a secret that comes with the stack is in no revision, spec or answer, and a new value is a new generation", async () => {
  const { cluster, stack, agents } = await place("a");
  const text = `${web("web:1", "    secrets: [db]\n")}secrets:\n  db: { file: ./db.txt }\n`;
  const value = "correct horse battery";
  const referred = (content: string) => [{ name: "./db.txt", content: Buffer.from(content) }];
  const applied = await slice.apply(stack, text, { clusterId: cluster, referred: referred(value) });
  expect(toJsonString(ApplyStackResponseSchema, applied)).not.toContain(value);
  const [command] = (await agents[0]?.claim()) ?? [];
  if (command === undefined) throw new Error("nothing was begun");
  const spec = await agents[0]?.spec(command);
  expect(spec?.files).toMatchObject([{ secret: expect.stringContaining("db") }]);
  expect(Object.keys(spec?.secretVersions ?? {})).toEqual(spec?.files.map(({ secret }) => secret));
  await agents[0]?.succeed(command);
  await slice.settle();
  const rows = await db.selectFrom("stack_revisions").selectAll().execute();
  expect(JSON.stringify(rows)).not.toContain(value);
  await slice.apply(stack, text, { referred: referred(value) });
  expect(await agents[0]?.claim()).toEqual([]);
  await slice.apply(stack, text, { referred: referred("another one") });
  expect(await agents[0]?.claim()).toHaveLength(1);
});

test("a stack stays in its cluster, and without a default one a new stack names its own", async () => {
  const { cluster, stack } = await place("a");
  const other = await place("b");
  expect(await reasonOf(slice.apply(stack, web("web:1")))).toBe("NO_DEFAULT_CLUSTER");
  await slice.apply(stack, web("web:1"), { clusterId: cluster });
  expect(await reasonOf(slice.apply(stack, web("web:2"), { clusterId: other.cluster }))).toBe("STACK_ELSEWHERE");
  expect((await slice.apply(stack, web("web:2"))).stack).toMatchObject({ clusterId: cluster, revision: 2 });
});

test("an apply that is repeated with its key is done once", async () => {
  const { cluster, stack } = await place("a");
  const apply = () => slice.apply(stack, web("web:1"), { clusterId: cluster, requestId: `key ${stack}` });
  const [one, two] = [await apply(), await apply()];
  expect(two.stack?.id).toBe(one.stack?.id);
  expect((await slice.rollouts.listRollouts({ stackId: stack })).rollouts).toHaveLength(1);
});

test("what has no name in the files takes nobody's: volumes and files of one name each", async () => {
  const { cluster, stack, agents } = await place("a");
  const text = `services:
  web: {image: web:1, volumes: [/data]}
  other: {image: web:1, volumes: ['web-0:/d'], configs: [{source: a, mode: 0444}, a-292--]}
volumes: {web-0: }
configs: {a: {content: one}, a-292--: {content: two}}
`;
  await slice.apply(stack, text, { clusterId: cluster });
  const [agent] = agents;
  const [command] = (await agent?.claim()) ?? [];
  if (agent === undefined || command === undefined) throw new Error("nothing was begun");
  const { volumes, files } = await agent.spec(command);
  expect(volumes.filter(({ keep }) => keep).map(({ name }) => name)).toEqual(["web-0"]);
  expect(volumes.filter(({ keep }) => !keep).map(({ name }) => name)).toEqual([expect.not.stringMatching(/^web-0$/)]);
  expect(files.map(({ content }) => Buffer.from(content).toString()).toSorted()).toEqual(["one", "two"]);
});
