/** Stacks on Docker hosts: a server, agents as processes beside the tests' engine, and what the engine has of them. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterPolicySchema } from "@bowline/contract/clusters";
import {
  type Rollout,
  Rollout_State,
  RolloutPolicySchema,
  type Stack,
  Stack_State as State,
  StackTarget_State as TargetState,
} from "@bowline/contract/stacks";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { atEnd, runProcess, temporaryFolder, testDatabase, testDocker, type TestDocker, until } from "@bowline/testing";
import { programs, startServer, type TestAgent } from "../e2e/fixture.ts";
import { freshName, joinAgent, type Place } from "../e2e/operating.ts";
import { busybox } from "./beside.ts";

/** A rollout over some hosts on two busy cores. */
export const settledWithinMs = 120_000;

export type Policy = Omit<MessageInitShape<typeof RolloutPolicySchema>, "$typeName">;

const atOnce: Policy = { minHealthyTime: { seconds: 0n }, maxParallel: 9 };

export interface Hosts {
  docker: TestDocker;
  api: Place["api"];
  cluster: string;
  clusterId: string;
  /** Agents in the order of their labels. */
  agents: TestAgent[];
  /** `bowline …` as the administrator types it. */
  bowline: (...args: string[]) => ReturnType<typeof runProcess>;
  apply: (name: string, text: string, policy?: Policy, limits?: { maxRetries: number }) => Promise<Stack>;
  /** Another agent with this label, beside the same engine. */
  join: (label: string) => Promise<TestAgent>;
  /** The stack once it is in this state, and what it waited for is told where it never is. */
  reaches: (name: string, state: State, what?: (stack: Stack) => boolean) => Promise<Stack>;
  /** The stack once it runs on each of its hosts: none is away, and none has something else than is wanted. */
  runs: (name: string) => Promise<Stack>;
  /** A rollout once it has ended, or `isDone` says so. */
  rolled: (id: string, isDone?: (rollout: Rollout) => boolean) => Promise<Rollout>;
  /** Ids of the running containers of a stack. */
  running: (stack: string) => Promise<string[]>;
  /** All containers of a stack, as `web-0 running`. */
  containers: (stack: string) => Promise<string[]>;
  /** Removes the stack with its volumes, and waits until it is gone. */
  down: (stack: string) => Promise<void>;
}

function runtimeId(dataDir: string): string {
  return (JSON.parse(readFileSync(join(dataDir, "runtime.json"), "utf8")) as { id: string }).id;
}

async function removeAll(docker: TestDocker, label: string): Promise<void> {
  const filters = encodeURIComponent(JSON.stringify({ label: [label] }));
  const containers = (await docker.ask("GET", `/containers/json?all=1&filters=${filters}`)) as { Id: string }[];
  for (const { Id } of containers) await docker.ask("DELETE", `/containers/${Id}?force=1&v=1`);
  const networks = (await docker.ask("GET", `/networks?filters=${filters}`)) as { Id: string }[];
  for (const { Id } of networks) await docker.ask("DELETE", `/networks/${Id}`);
  const { Volumes } = (await docker.ask("GET", `/volumes?filters=${filters}`)) as {
    Volumes: { Name: string }[] | null;
  };
  for (const { Name } of Volumes ?? []) await docker.ask("DELETE", `/volumes/${Name}`);
}

interface Listed {
  Id: string;
  State: string;
  Labels: Record<string, string>;
}

function nameOf(state: State | undefined): string {
  return Object.entries(State).find(([, value]) => value === state)?.[0] ?? "not there";
}

/** Agents with these labels, all beside one engine: the tests' own, unless another is given. */
export async function dockerHosts(
  labels: readonly string[],
  {
    engine,
    policy = {},
    agentFlags = [],
  }: {
    engine?: TestDocker;
    policy?: Omit<MessageInitShape<typeof ClusterPolicySchema>, "$typeName">;
    /** Of each agent, beside those that every one has here. */
    agentFlags?: readonly string[];
  } = {},
): Promise<Hosts> {
  const docker = engine ?? (await testDocker());
  const home = temporaryFolder();
  await docker.importBusybox(busybox);
  // What an agent says of its engine comes with its heartbeats.
  const flags = ["--heartbeat-interval-ms", "1000"];
  const { api, url, adminToken } = await startServer({ databaseUrl: (await testDatabase()).url, flags });
  const cluster = await api.clusters.createCluster({
    cluster: { name: freshName("hosts"), runtime: "docker", policy },
  });
  const place: Place = { api, clusterId: cluster.id, cluster: cluster.name, gatewayId: "" };
  const flagsOf = (label: string) => [
    ...["--docker-host", docker.host, "--name", label, "--label", `zone=${label}`],
    ...agentFlags,
  ];
  // Whatever a test that failed left there. What began last ends first: by then its agents have ended.
  const runtimes: string[] = [];
  atEnd(async () => {
    for (const id of runtimes) await removeAll(docker, `bowline.agent=${id}`);
  });
  const join = async (label: string): Promise<TestAgent> => {
    const agent = await joinAgent(place, { program: programs.dockerAgent, flags: flagsOf(label) });
    runtimes.push(runtimeId(agent.dataDir));
    return agent;
  };
  const agents = await Promise.all(labels.map(join));
  const reaches: Hosts["reaches"] = async (name, state, what = () => true) => {
    let last: Stack | undefined;
    try {
      return await until(
        async () => {
          last = await api.stacks.getStack({ id: name });
          return last.state === state && what(last) ? last : undefined;
        },
        { withinMs: settledWithinMs, what: `the stack ${name} is ${nameOf(state)}` },
      );
    } catch (error) {
      const targets = last?.targets.map(
        (one) => `${one.agent} ${one.state} ${one.progressPhase} ${one.progressPercent} % ${one.reason} ${one.message}`,
      );
      throw new Error(`${String(error)}; it is ${nameOf(last?.state)}: ${targets?.join("; ")}`);
    }
  };
  const own = async (stack: string) => {
    const ids = (await api.stacks.getStack({ id: stack })).targets.map(({ deploymentId }) => deploymentId);
    const all = (await docker.ask("GET", "/containers/json?all=1")) as Listed[];
    return all.filter(({ Labels }) => ids.includes(Labels["bowline.deployment"] ?? ""));
  };
  return {
    ...{ docker, api, cluster: cluster.name, clusterId: cluster.id, agents, join, reaches },
    bowline: (...args) =>
      runProcess({
        command: ["node", programs.cli, ...args],
        env: { BOWLINE_URL: url, BOWLINE_TOKEN: adminToken, XDG_CONFIG_HOME: home },
      }),
    runs: (name) =>
      reaches(
        name,
        State.RUNNING,
        ({ conditions, targets }) => conditions.length === 0 && targets.every((one) => one.state === TargetState.DONE),
      ),
    apply: async (name, text, rollout = {}, limits) => {
      const { stack } = await api.stacks.applyStack({
        ...{ name, clusterId: cluster.id, policy: create(RolloutPolicySchema, { ...atOnce, ...rollout }) },
        ...(limits === undefined ? {} : { limits }),
        source: { files: [{ name: "compose.yaml", content: Buffer.from(text) }] },
      });
      if (stack === undefined) throw new Error("no stack came of it");
      return stack;
    },
    rolled: (id, isDone = ({ state }) => state !== Rollout_State.PENDING && state !== Rollout_State.RUNNING) =>
      until(
        async () => {
          const rollout = await api.rollouts.getRollout({ id });
          return isDone(rollout) ? rollout : undefined;
        },
        { withinMs: settledWithinMs, what: `the rollout ${id} is where it should come` },
      ),
    running: async (stack) => (await own(stack)).filter((one) => one.State === "running").map(({ Id }) => Id),
    containers: async (stack) =>
      (await own(stack))
        .map(({ Labels, State: now }) => `${Labels["bowline.workload"]}-${Labels["bowline.index"]} ${now}`)
        .toSorted(),
    down: async (stack) => {
      const { id } = await api.stacks.downStack({ id: stack, removeVolumes: true });
      await reaches(id, State.DELETED);
    },
  };
}
