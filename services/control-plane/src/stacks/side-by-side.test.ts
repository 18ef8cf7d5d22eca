/** Blue/green and canaries over a real database; what agents do is the engine's own receipts and results. */
import { beforeAll, expect, test } from "@jest/globals";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  Rollout_Phase as Phase,
  Rollout_State as State,
  RolloutPolicy_Strategy as Strategy,
  type RolloutPolicySchema,
  Stack_State,
} from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import { reasonOf } from "../platform/in-process.ts";
import { type StackAgent, startStacks, type Stacking } from "./stacks.fixture.ts";

let slice: Stacking;
let named = 0;

beforeAll(async () => {
  slice = await startStacks((await testDatabase()).db);
});

const atOnce = { minHealthyTime: { seconds: 0n }, maxParallel: 9 } as const;
type Policy = MessageInitShape<typeof RolloutPolicySchema>;
const blueGreen: Policy = { ...atOnce, strategy: Strategy.BLUE_GREEN };
const canary: Policy = { ...atOnce, strategy: Strategy.CANARY };

const web = (image: string, replicas = 4): string =>
  `services: { web: { image: "${image}", ports: ["8080:80"], deploy: { replicas: ${replicas} } } }`;

/** A stack whose first revision runs on agents of these names. */
async function place(names: readonly string[], policy: Policy) {
  named += 1;
  const cluster = await slice.cluster(`sides-${named}`);
  const agents: StackAgent[] = [];
  for (const name of names) agents.push(await slice.agent(cluster, name));
  const stack = `side-${named}`;
  await slice.apply(stack, web("web:1"), { clusterId: cluster, policy });
  const settle = async (): Promise<void> => {
    for (const agent of agents) await agent.workOff();
    await slice.settle();
  };
  await settle();
  expect((await slice.stacks.getStack({ id: stack })).state).toBe(Stack_State.RUNNING);
  return {
    ...{ stack, agents, settle },
    apply: async (image: string, more: { policy?: Policy; replicas?: number } = {}) =>
      (await slice.apply(stack, web(image, more.replicas), { policy: more.policy ?? policy })).stack?.rollout?.id ?? "",
    rollout: async () => (await slice.stacks.getStack({ id: stack })).rollout,
    get: () => slice.stacks.getStack({ id: stack }),
  };
}

/** What an agent is told now: workloads with images and counts, and where its port leads. */
async function told(agent: StackAgent | undefined): Promise<string[]> {
  const claimed = (await agent?.claim()) ?? [];
  const lines: string[] = [];
  for (const command of claimed) {
    const spec = await agent?.spec(command);
    const workloads = spec?.workloads.map((one) => `${one.name}=${one.image}x${one.count}`).toSorted() ?? [];
    const leads =
      spec?.forwards.map(({ backends }) => backends.map((b) => `${b.workload}:${b.weight}`).join("+")) ?? [];
    lines.push(`${workloads.join(" ")} -> ${leads.join(" ")}`);
    await agent?.succeed(command);
  }
  return lines;
}

test("blue/green: both run, the port switches when all is well, the old one is kept for a while, then goes", async () => {
  const { agents, apply, rollout, get } = await place(["a", "b"], { ...blueGreen, keepOld: { seconds: 600n } });
  const id = await apply("web:2");
  expect(await rollout()).toMatchObject({ phase: Phase.PREPARING, sideBySide: ["web"], total: 2 });
  for (const agent of agents) expect(await told(agent)).toEqual(["web--green=web:2x2 web=web:1x2 -> web:1"]);
  await slice.settle();
  for (const agent of agents) expect(await told(agent)).toEqual(["web--green=web:2x2 web=web:1x2 -> web--green:1"]);
  await slice.settle();
  const kept = await rollout();
  expect(kept).toMatchObject({ phase: Phase.SWITCHING, state: State.RUNNING, done: 2 });
  expect(Number(kept?.removesOldAt?.seconds) * 1000).toBeGreaterThan(Date.now() + 500_000);
  for (const agent of agents) expect(await agent.claim()).toEqual([]);
  expect(await reasonOf(slice.rollouts.promoteRollout({ id }))).toBe("ROLLOUT_NOT_PROMOTABLE"); // it was by itself
  await slice.settle();
  expect((await rollout())?.removesOldAt).toEqual(kept?.removesOldAt);
  await slice.rollouts.promoteRollout({ id, full: true }); // what was goes at once
  expect(await slice.rollouts.promoteRollout({ id, full: true })).toMatchObject({ state: State.RUNNING });
  await slice.settle();
  for (const agent of agents) expect(await told(agent)).toEqual(["web--green=web:2x2 -> web--green:1"]);
  await slice.settle();
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, stableRevision: 2, revision: 2 });

  // The next one comes in the other colour; nothing that runs is renamed.
  await apply("web:3", { policy: { ...blueGreen, keepOld: { seconds: 0n } } });
  for (const agent of agents) expect(await told(agent)).toEqual(["web--green=web:2x2 web=web:3x2 -> web--green:1"]);
  await slice.settle();
  for (const agent of agents) expect(await told(agent)).toEqual(["web--green=web:2x2 web=web:3x2 -> web:1"]);
  await slice.settle();
  for (const agent of agents) expect(await told(agent)).toEqual(["web=web:3x2 -> web:1"]);
});

test("who wants to promote by hand is waited for, for as long as it takes", async () => {
  const { agents, apply, rollout } = await place(["a"], {
    ...{ ...blueGreen, autoPromote: false, keepOld: { seconds: 0n }, progressDeadline: { seconds: 600n } },
  });
  const id = await apply("web:2");
  await told(agents[0]);
  await slice.settle();
  expect(await rollout()).toMatchObject({ awaitsPromotion: true, phase: Phase.PREPARING, state: State.RUNNING });
  await slice.db
    .updateTable("stack_rollouts")
    .set({ progress_at: new Date(0) })
    .where("id", "=", id)
    .execute();
  await slice.settle();
  expect(await rollout()).toMatchObject({ awaitsPromotion: true });
  expect(await slice.rollouts.promoteRollout({ id })).toMatchObject({ state: State.RUNNING });
  await slice.settle();
  expect(await told(agents[0])).toEqual(["web--green=web:2x4 web=web:1x4 -> web--green:1"]);
});

test("promoted again, in every phase that is left, it changes nothing: what was is kept as long as it was to be", async () => {
  const { agents, apply, rollout, get } = await place(["a"], {
    ...{ ...blueGreen, autoPromote: false, keepOld: { seconds: 600n } },
  });
  const id = await apply("web:2");
  const again = async () => {
    const before = await rollout();
    expect(await slice.rollouts.promoteRollout({ id })).toEqual(before);
    await slice.settle();
  };
  await slice.rollouts.promoteRollout({ id }); // before it waits
  await again();
  await told(agents[0]);
  await slice.settle();
  await again();
  expect(await told(agents[0])).toEqual(["web--green=web:2x4 web=web:1x4 -> web--green:1"]);
  await slice.settle();
  const kept = await rollout();
  expect(kept).toMatchObject({ phase: Phase.SWITCHING, state: State.RUNNING });
  expect(Number(kept?.removesOldAt?.seconds) * 1000).toBeGreaterThan(Date.now() + 500_000);
  await again();
  expect(await rollout()).toEqual(kept);
  expect(await agents[0]?.claim()).toEqual([]);
  expect((await get()).stableRevision).toBe(1);
});

test("promoted in full before the switch, what was goes right after it", async () => {
  const { agents, apply, get } = await place(["a"], {
    ...{ ...blueGreen, autoPromote: false, keepOld: { seconds: 600n } },
  });
  const id = await apply("web:2");
  await told(agents[0]);
  await slice.settle();
  await slice.rollouts.promoteRollout({ id, full: true });
  await slice.settle();
  expect(await told(agents[0])).toEqual(["web--green=web:2x4 web=web:1x4 -> web--green:1"]);
  await slice.settle();
  expect(await told(agents[0])).toEqual(["web--green=web:2x4 -> web--green:1"]);
  await slice.settle();
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, stableRevision: 2 });
});

test("canaries serve beside what was until they are promoted; then the rest follows agent after agent", async () => {
  const { agents, apply, rollout, get } = await place(["a", "b"], { ...canary, maxParallel: 9 });
  const id = await apply("web:2", { policy: { ...canary, maxParallel: 1 } });
  expect(await told(agents[0])).toEqual(["web--green=web:2x1 web=web:1x2 -> web:2+web--green:1"]);
  expect(await agents[1]?.claim()).toEqual([]);
  await slice.settle();
  expect(await rollout()).toMatchObject({ awaitsPromotion: true, phase: Phase.CANARIES });
  await slice.rollouts.promoteRollout({ id });
  await slice.settle();
  expect(await told(agents[0])).toEqual(["web--green=web:2x2 -> web--green:1"]);
  expect(await agents[1]?.claim()).toEqual([]);
  await slice.settle();
  expect(await told(agents[1])).toEqual(["web--green=web:2x2 -> web--green:1"]);
  await slice.settle();
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, stableRevision: 2 });
});

test("canaries go where they can serve: not to who is away, and they stay when that one is back", async () => {
  const { agents, apply, rollout } = await place(["a", "b"], canary);
  await agents[0]?.online(false);
  await apply("web:2", { policy: { ...canary, canaryCount: 2 } });
  expect(await told(agents[1])).toEqual(["web--green=web:2x2 web=web:1x2 -> web:2+web--green:2"]);
  await slice.settle();
  expect(await rollout()).toMatchObject({ awaitsPromotion: true, phase: Phase.CANARIES });
  await agents[0]?.online(true);
  await slice.settle();
  for (const agent of agents) expect(await agent.claim()).toEqual([]);
  await agents[1]?.online(false);
  await slice.settle();
  for (const agent of agents) expect(await agent.claim()).toEqual([]);
  expect(await rollout()).toMatchObject({ awaitsPromotion: true, phase: Phase.CANARIES });
});

test("a percentage of canaries is of the whole stack, rounded up", async () => {
  const { agents, apply } = await place(["a", "b"], canary);
  await apply("web:2", { policy: { ...canary, canaryPercent: 51 } });
  expect(await told(agents[0])).toEqual(["web--green=web:2x2 web=web:1x2 -> web:2+web--green:2"]);
  expect(await told(agents[1])).toEqual(["web--green=web:2x1 web=web:1x2 -> web:2+web--green:1"]);
});

test.each([1, 2, 3])("aborted at step %i, all agents switch back at once to what never stopped", async (steps) => {
  const { agents, apply, get } = await place(["a", "b"], { ...blueGreen, keepOld: { seconds: 600n } });
  const id = await apply("web:2", { policy: { ...blueGreen, maxParallel: 9, keepOld: { seconds: 600n } } });
  for (let step = 1; step < steps; step += 1) {
    for (const agent of agents) await told(agent);
    await slice.settle();
  }
  await slice.rollouts.abortRollout({ id });
  for (const agent of agents) expect(await told(agent)).toContain("web=web:1x2 -> web:1");
  await slice.settle();
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, revision: 1, stableRevision: 1 });
});

test("a gate that cannot tell pauses; resumed it is asked again, promoted it counts as passed", async () => {
  const gates = [{ name: "smoke", service: "web", check: { case: "exec" as const, value: { command: ["true"] } } }];
  const { agents, apply, rollout } = await place(["a"], { ...blueGreen, gates });
  const [agent] = agents;
  const id = await apply("web:2");
  const unclear = async (): Promise<void> => {
    const [command] = (await agent?.claim()) ?? [];
    if (command === undefined) throw new Error("nothing was told");
    const spec = await agent?.spec(command);
    expect(spec?.gates.map(({ name, workload }) => [name, workload])).toEqual([["smoke", "web--green"]]);
    await agent?.succeed(command, "GATE_INCONCLUSIVE", "smoke: exit code 75");
    await slice.settle();
  };
  await unclear();
  const paused = { state: State.PAUSED, reason: "GATE_INCONCLUSIVE", message: "smoke: exit code 75" };
  expect(await rollout()).toMatchObject(paused);
  await slice.rollouts.resumeRollout({ id });
  await slice.settle();
  await unclear();
  expect(await rollout()).toMatchObject(paused);
  await slice.rollouts.promoteRollout({ id });
  await slice.settle();
  expect(await told(agent)).toEqual(["web--green=web:2x4 web=web:1x4 -> web--green:1"]);
});

test("a gate that fails goes back, and the old revision has served all the while", async () => {
  const { agents, apply, get } = await place(["a"], blueGreen);
  await apply("web:2");
  const [command] = (await agents[0]?.claim()) ?? [];
  if (command !== undefined) await agents[0]?.fail(command, "GATE_FAILED", "smoke: exit code 1");
  await slice.settle();
  expect(await told(agents[0])).toEqual(["web=web:1x4 -> web:1"]);
  await slice.settle();
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, revision: 1, reason: "GATE_FAILED" });
});

test("a newer revision takes the place of the candidate; what is stable stays beside it", async () => {
  const { agents, apply } = await place(["a"], canary);
  await apply("web:2");
  await told(agents[0]);
  await slice.settle();
  await apply("web:3");
  expect(await told(agents[0])).toEqual(["web--green=web:3x1 web=web:1x4 -> web:4+web--green:1"]);
});

test("who was away for all of it gets the end of it at once", async () => {
  const { agents, apply, get } = await place(["a", "b"], { ...blueGreen, keepOld: { seconds: 0n } });
  await agents[1]?.online(false);
  await apply("web:2");
  for (let step = 0; step < 3; step += 1) {
    await told(agents[0]);
    await slice.settle();
  }
  expect(await get()).toMatchObject({ state: Stack_State.RUNNING, stableRevision: 2 });
  await agents[1]?.online(true);
  expect(await told(agents[1])).toEqual(["web--green=web:2x2 -> web--green:1"]);
});

test("more instances alone need no second side", async () => {
  const { agents, apply, rollout } = await place(["a"], canary);
  await apply("web:1", { replicas: 6 });
  expect(await rollout()).toMatchObject({ phase: Phase.UPDATING, sideBySide: [] });
  expect(await told(agents[0])).toEqual(["web=web:1x6 -> web:1"]);
});

test("a gate that asks what the stack does not have is refused before anything changes", async () => {
  const { stack } = await place(["a"], blueGreen);
  const gate = (service: string, port: string): Policy => ({
    gates: [{ name: "smoke", service, check: { case: "http", value: { port, path: "/" } } }],
  });
  const refused = (policy: Policy) =>
    slice.apply(stack, web("web:2"), { policy }).then(
      () => "taken",
      (error: unknown) => String(error),
    );
  expect(await refused(gate("wbe", "80"))).toMatch(/gate/);
  expect(await refused(gate("web", "81"))).toMatch(/gate/);
  expect((await slice.stacks.getStack({ id: stack })).revision).toBe(1);
  expect(await reasonOf(slice.apply(stack, web("web:2"), { policy: gate("web", "81") }))).toBe("INVALID_ARGUMENT");
});

test("a gate that was kept from an earlier apply is not dropped in silence: files without what it asks are refused", async () => {
  const check = { case: "http" as const, value: { port: "80", path: "/" } };
  const { stack } = await place(["a"], { ...blueGreen, gates: [{ name: "smoke", service: "web", check }] });
  const source = (text: string) => ({ files: [{ name: "compose.yaml", content: Buffer.from(text) }] });
  const applied = (text: string) =>
    slice.stacks.applyStack({ name: stack, source: source(text) }).then(
      () => "taken",
      (error: unknown) => String(error),
    );
  expect(await applied(web("web:2").replace("8080:80", "8080:81"))).toMatch(/gate.* kept/s);
  expect(await applied(web("web:2").replace("web:", "shop:"))).toMatch(/gate.* kept/s);
  expect((await slice.stacks.getStack({ id: stack })).revision).toBe(1);
  expect(await applied(web("web:2"))).toBe("taken");
});

test("a service that cannot run twice, and is asked to, is told in the plan", async () => {
  named += 1;
  const clusterId = await slice.cluster(`sides-${named}`);
  const text = `
services:
  web: { image: "web:1" }
  db: { image: "db:1", volumes: ["data:/data"] }
  log: { image: "log:1", volumes: ["data:/data"], deploy: { update_config: { order: start-first } } }
volumes: { data: {} }`;
  const told = async (policy: Policy) => {
    const { warnings } = await slice.apply(`side-${named}`, text, { clusterId, policy, dryRun: true });
    return warnings.flatMap(({ reason, path }) => (reason === "VALUE_IGNORED" ? [path] : []));
  };
  expect(await told(atOnce)).toEqual(["services.log.deploy.update_config.order"]);
  expect(await told(blueGreen)).toEqual(["services.db", "services.log.deploy.update_config.order"]);
});
