/** What happens to hosts under a stack: their agent dies in the middle of its work, or their engine goes away. */
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { ownDocker, startTcpProxy, temporaryFolder, testRegistry, until } from "@bowline/testing";
import type { TestAgent } from "../e2e/fixture.ts";
import { online } from "../e2e/operating.ts";
import { busybox, idle } from "./beside.ts";
import { onEngine } from "./left.ts";
import { dockerHosts, type Hosts, settledWithinMs } from "./stacks.fixture.ts";

const hosts = await dockerHosts(["a"]);
let agent = hosts.agents[0] as TestAgent;

/** The agent after its death, with a crash point where it dies again. */
function startAgain(fault?: string): void {
  agent = agent.again(fault === undefined ? {} : { env: { BOWLINE_FAULT: fault } });
}

const web = (image: string, replicas: number, more = ""): string => `
services:
  web:
    image: "${image}"
    command: ${JSON.stringify(idle)}
    restart: always
    deploy: { replicas: ${replicas} }
${more}`;

/** Bytes a second: a pull takes longer than it is until somebody has seen that it is under way. */
const slow = 25_000;

test("an agent that is killed in the middle of a pull pulls again when it is back; nothing is there twice", async () => {
  const { docker, api, apply, runs, containers, down } = hosts;
  const registry = await testRegistry();
  // The engine must not have its layer.
  const bytes = join(temporaryFolder(), "bytes");
  writeFileSync(bytes, randomBytes(500_000));
  await docker.importBusybox("testing/slow:1", { "/bytes": bytes });
  const { reference } = await registry.push(docker, "testing/slow:1", "slow/web:1");
  await docker.ask("DELETE", "/images/testing/slow:1?force=1");
  const proxy = await startTcpProxy({ host: "127.0.0.1", port: registry.port });
  proxy.throttle(slow);
  const { rollout } = await apply("pulled", web(reference.replace(String(registry.port), String(proxy.port)), 2));
  await until(
    async () => {
      const { targets } = await api.stacks.getStack({ id: "pulled" });
      return targets.some(({ services }) => services.some((one) => one.progressPhase === "PULLING"));
    },
    { withinMs: settledWithinMs, what: "a pull is under way" },
  );
  await agent.kill();
  expect(await containers("pulled")).toEqual([]);
  proxy.throttle(Infinity);
  startAgain();
  await runs("pulled");
  expect(await containers("pulled")).toEqual(["web-0 running", "web-1 running"]);
  expect(await hosts.rolled(rollout?.id ?? "")).toMatchObject({ message: "", done: 1, total: 1 });
  await down("pulled");
});

test("an agent that is killed while it makes and starts containers adopts them: the same containers, network and volume as without it", async () => {
  const { docker, api, apply, runs, containers, down } = hosts;
  const before = await onEngine(docker);
  await agent.kill();
  startAgain("docker.after-create@2"); // nobody has written down yet that it is there
  await online(api, agent);
  const text = web(busybox, 3, "    volumes: [data:/data]\nvolumes: { data: {} }");
  const { id } = await apply("killed", text);
  for (const next of ["docker.after-start@2", undefined]) {
    expect(await agent.process.ended).toMatchObject({ signal: "SIGKILL" });
    startAgain(next);
  }
  const { targets } = await runs("killed");
  expect(targets[0]?.services[0]?.instances.map(({ index, phase }) => [index, phase])).toEqual(
    [0, 1, 2].map((index) => [index, "RUNNING"]),
  );
  expect(await containers("killed")).toEqual(["web-0 running", "web-1 running", "web-2 running"]);
  const made = [...(await onEngine(docker))]
    .filter((line) => !before.has(line))
    .map((line) => line.split(" ")[0] ?? "");
  expect(made.toSorted()).toEqual(["container", "container", "container", "network", "volume"]);
  const ids = await hosts.running("killed");
  await agent.kill();
  expect(await hosts.running("killed")).toEqual(ids);
  startAgain();
  await runs("killed");
  await apply("killed", text);
  expect(await hosts.running("killed")).toEqual(ids);
  await down("killed");
  expect([...(await onEngine(docker))].toSorted()).toEqual([...before].toSorted());
  expect((await api.stacks.getStack({ id })).owingAgents).toEqual([]);
});

/** What people read of the hosts. */
async function list({ bowline }: Hosts): Promise<string> {
  const { code, stdout, stderr } = await bowline("agent", "list");
  if (code !== 0) throw new Error(stderr);
  return stdout;
}

test("an engine that goes away is told with its agent; when it is back, what ran runs again, once, and what is new is done", async () => {
  const engine = await ownDocker();
  const own = await dockerHosts(["a"], { engine });
  const { api, agents, apply, running, runs, containers, down } = own;
  await apply("shop", web(busybox, 2));
  await runs("shop");
  const before = await running("shop");
  const id = (await agents[0]?.id()) ?? "";
  const problem = async () => (await api.agents.getAgent({ id })).runtimeProblem;
  await engine.halt();
  await until(async () => (await problem()) !== "", { withinMs: settledWithinMs, what: "the problem is told" });
  expect(await list(own)).toMatch(/^a +\S+ +online, .*the Docker Engine/m);
  await engine.start();
  await until(async () => (await problem()) === "", { withinMs: settledWithinMs, what: "the problem is over" });
  expect(await list(own)).not.toContain("the Docker Engine");
  await until(async () => (await running("shop")).length === 2, { withinMs: settledWithinMs, what: "it runs again" });
  expect((await running("shop")).toSorted()).toEqual(before.toSorted());
  await runs("shop");
  await apply("shop", web(busybox, 3));
  await runs("shop");
  expect(await containers("shop")).toEqual(["web-0 running", "web-1 running", "web-2 running"]);
  await down("shop");
});
