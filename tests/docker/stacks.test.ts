/** Stacks on Docker hosts, end to end: placement, hosts that are away, down, and rollouts that a client never notices. */
import { expect, test } from "@jest/globals";
import { Rollout_State, RolloutPolicy_Strategy as Strategy, Stack_State as State } from "@bowline/contract/stacks";
import { atEnd, freePort, until } from "@bowline/testing";
import { offline } from "../e2e/operating.ts";
import { answering, keepAsking } from "./asking.ts";
import { busybox, idle } from "./beside.ts";
import { onEngine } from "./left.ts";
import { dockerHosts, settledWithinMs } from "./stacks.fixture.ts";

const sleeps = JSON.stringify(idle);

test("a stack lands where its placement says; a host that is away follows; down leaves nothing of it and all that is a stranger's", async () => {
  const { docker, api, agents, apply, reaches, running } = await dockerHosts(["a", "b", "c"]);
  await docker.ask("POST", "/volumes/create", { Name: "stranger" });
  atEnd(() => docker.ask("DELETE", "/volumes/stranger").then(() => undefined));
  const { Id: network } = (await docker.ask("POST", "/networks/create", { Name: "stranger" })) as { Id: string };
  atEnd(() => docker.ask("DELETE", `/networks/${network}`).then(() => undefined));
  const { Id: stranger } = (await docker.ask("POST", "/containers/create?name=stranger", {
    ...{ Image: busybox, Cmd: idle, HostConfig: { NetworkMode: "none", Binds: ["stranger:/data"] } },
  })) as { Id: string };
  atEnd(() => docker.ask("DELETE", `/containers/${stranger}?force=1`).then(() => undefined));
  await docker.ask("POST", `/containers/${stranger}/start`);
  const before = await onEngine(docker);

  const [, second] = agents;
  await second?.kill();
  if (second !== undefined) await offline(api, second);
  const text = `
services:
  web:
    { image: ${busybox}, command: ${sleeps}, deploy: { replicas: 2, placement: { constraints: [node.labels.zone == a] } } }
  store:
    image: ${busybox}
    command: ${sleeps}
    volumes: [data:/data]
    deploy: { placement: { constraints: [node.labels.zone == c] } }
  probe: { image: ${busybox}, command: ${sleeps}, deploy: { mode: global } }
volumes: { data: {} }`;
  await apply("shop", text);
  const shown = await reaches("shop", State.RUNNING);
  expect(shown.conditions).toContain("AGENT_OFFLINE");
  const counts = (stack: typeof shown) =>
    stack.targets.map(({ agent, services }) => [agent, services.map((one) => `${one.service} ${one.count}`)]);
  expect(counts(shown)).toEqual([
    ["a", ["probe 1", "web 2"]],
    ["b", ["probe 1"]],
    ["c", ["probe 1", "store 1"]],
  ]);
  expect(await running("shop")).toHaveLength(5);

  const again = second?.again();
  await until(async () => (await running("shop")).length === 6, {
    withinMs: settledWithinMs,
    what: "the host that was away follows",
  });
  await reaches("shop", State.RUNNING, ({ conditions }) => conditions.length === 0);

  await again?.kill();
  await api.stacks.downStack({ id: "shop", removeVolumes: true });
  const owing = await reaches("shop", State.DELETING, ({ owingAgents }) => owingAgents.length === 1);
  expect(owing.owingAgents).toEqual(["b"]);
  second?.again();
  await reaches(owing.id, State.DELETED);
  const left = [...(await onEngine(docker))].filter((line) => !line.startsWith("container /stranger"));
  expect(left.toSorted()).toEqual([...before].filter((line) => !line.startsWith("container /stranger")).toSorted());
  const inspected = (await docker.ask("GET", `/containers/${stranger}/json`)) as { State: { Running: boolean } };
  expect(inspected.State.Running).toBe(true);
});

/** Answers its version; ends at once. */
const answers = (version: string, port: number, more = ""): string => `
services:
  web:
    image: ${busybox}
    command: ${JSON.stringify(answering(version))}
    init: false
    stop_signal: SIGKILL
    ports: ["127.0.0.1:${port}:8080"]
    healthcheck: { test: [CMD, wget, -q, -O, "-", "http://127.0.0.1:8080/"], interval: 1s, timeout: 20s, retries: 5 }
    deploy: { replicas: 2 }
${more}`;

test("blue/green: a client that keeps asking sees the new version and no failed request, also when the agent is killed in the middle and when the next version crashes", async () => {
  const { agents, api, apply, reaches, rolled, running } = await dockerHosts(["a"]);
  const port = await freePort();
  const policy = {
    strategy: Strategy.BLUE_GREEN,
    keepOld: { seconds: 0n },
    gates: [{ name: "up", service: "web", check: { case: "http" as const, value: { port: "8080", path: "/" } } }],
  };
  await apply("shop", answers("v1", port), policy);
  await reaches("shop", State.RUNNING);
  const asking = keepAsking(port);
  await until(() => asking.seen.includes("v1"), { withinMs: settledWithinMs, what: "the first version answers" });

  // Both sides stay for as long as this, so that the agent is killed in the middle.
  const unhurried = { ...policy, minHealthyTime: { seconds: 10n } };
  const second = await apply("shop", answers("v2", port), unhurried);
  await until(async () => (await running("shop")).length > 2, { withinMs: settledWithinMs, what: "both sides run" });
  await agents[0]?.kill();
  agents[0]?.again();
  expect(await rolled(second.rollout?.id ?? "")).toMatchObject({ state: Rollout_State.SUCCEEDED });
  await reaches("shop", State.RUNNING);
  await until(async () => (await running("shop")).length === 2, { withinMs: settledWithinMs, what: "the old is gone" });

  const broken = answers("v3", port).replace("exec httpd", "exit 3; httpd");
  const third = await apply("shop", broken, policy);
  const failed = await rolled(third.rollout?.id ?? "");
  expect(failed).toMatchObject({ state: Rollout_State.ROLLED_BACK, message: expect.stringContaining("exit code 3") });
  expect(await reaches("shop", State.RUNNING)).toMatchObject({ revision: 2, stableRevision: 2 });
  const { seen, failures, asked } = await asking.end();
  expect(failures).toEqual([]);
  expect(seen).toEqual(["v1", "v2"]);
  expect(asked).toBeGreaterThan(20);
  expect(await running("shop")).toHaveLength(2);
  expect((await api.stacks.getStack({ id: "shop" })).targets[0]?.services[0]?.instances).toHaveLength(2);
  await api.stacks.downStack({ id: "shop", removeVolumes: true });
  await reaches(third.id, State.DELETED);
});
