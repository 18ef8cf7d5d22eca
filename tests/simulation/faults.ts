/**
 * What goes wrong in a history, drawn from its seed. Each history has a few
 * kinds of its own (so that some have one kind often, and some have many), and
 * each fault ends by itself or is mended at the end.
 */
import { CommandReceipt_Disposition, type AgentMessage, DeployResult_Outcome } from "@bowline/contract/agent";
import { Agent } from "./agent.ts";
import type { Checker } from "./checker.ts";
import type { Cluster } from "./cluster.ts";
import { Host } from "./host.ts";
import type { Random } from "./random.ts";
import type { Server } from "./server.ts";
import { acceptAgent, confirmDispatch, endLife, markRestored, releaseAgent } from "./sessions.ts";
import type { Kept } from "./disk.ts";
import type { Tables } from "./tables.ts";
import type { Process } from "./world.ts";

export interface Scene {
  cluster: Cluster;
  checker: Checker;
  random: Random;
  /** By their first host; a clone is another agent with the same id. */
  agents: Agent[];
  clones: Agent[];
  /** Agents that an operator has given up, or whose disk was copied to a second host that passes as the first. */
  gone: Set<string>;
  cloned: Set<string>;
  /** From here on nothing fails any more. */
  mended: boolean;
  startReplica: () => Server;
  /** Which agent a link belongs to is known by its host's name elsewhere. */
  newAgent: (id: string, host: Host) => Agent;
}

type Fault = (scene: Scene) => void;

const between = (scene: Scene, low: number, high: number): number => scene.random.between(low, high);
const anyAgent = (scene: Scene): Agent => scene.random.pick(scene.agents);
const liveReplicas = ({ cluster }: Scene): Server[] => cluster.replicas.filter((one) => one.process.alive);

function startLater(scene: Scene, agent: Agent, ms: number): void {
  scene.cluster.world.at(ms, () => agent.start());
}

/** Kills the agent's process at a step of its disk or runtime, a few times in a row where the draw says so. */
function crashAt(scene: Scene, place: "disk" | "host"): void {
  const agent = anyAgent(scene);
  const when = scene.random.pick(["before", "after"] as const);
  let skip = scene.random.below(4);
  let times = scene.random.chance(0.25) ? 4 : 1;
  const point = agent[place];
  point.around = (at) => {
    if (at !== when || skip-- > 0) return;
    skip = 0;
    times -= 1;
    if (times <= 0) point.around = undefined;
    agent.kill();
    startLater(scene, agent, between(scene, 50, 3_000));
  };
}

function crashReplica(scene: Scene, replica: Server | undefined): void {
  replica?.process.kill();
  scene.cluster.world.at(between(scene, 500, 8_000), () => {
    if (liveReplicas(scene).length < 3) scene.startReplica();
  });
}

function awayFor(scene: Scene, ms: number, meanwhile: () => void = () => undefined): void {
  const { store, world } = scene.cluster;
  if (!store.up) return;
  world.note("database", () => `is away for ${Math.round(ms)} ms`);
  store.up = false;
  store.cutConnections();
  world.at(ms / 2, meanwhile);
  world.at(ms, () => {
    store.up = true;
    world.note("database", () => "is back");
  });
}

/** Runs an operator's call at some replica, until one has done it. */
export function operate(scene: Scene, call: (replica: Server) => Promise<void>): void {
  const { world } = scene.cluster;
  const replica = liveReplicas(scene)[0];
  const again = (): void => world.at(1_000, () => operate(scene, call));
  if (replica === undefined) return again();
  void call(replica).catch(again);
}

export const faults = {
  "agent-crash": (scene) => {
    const agent = anyAgent(scene);
    agent.kill();
    startLater(scene, agent, scene.random.chance(0.2) ? between(scene, 30_000, 90_000) : between(scene, 100, 10_000));
  },
  "agent-crash-at-disk": (scene) => crashAt(scene, "disk"),
  "agent-crash-at-effect": (scene) => crashAt(scene, "host"),
  "agent-pause": (scene) => anyAgent(scene).process?.pause(between(scene, 1_000, 80_000)),
  "agent-disk-full": (scene) => {
    const { disk, host } = anyAgent(scene);
    if (disk.full) return;
    disk.full = true;
    scene.cluster.world.note(host.name, () => "disk is full");
    scene.cluster.world.at(between(scene, 2_000, 40_000), () => (disk.full = false));
  },
  "agent-disk-older": (scene) => {
    const agent = anyAgent(scene);
    const copy = agent.disk.copy();
    scene.cluster.world.at(between(scene, 3_000, 60_000), () => comeBack(scene, agent, copy));
  },
  "agent-journal-lost": (scene) => comeBack(scene, anyAgent(scene), { log: undefined, counter: 0 }),
  "agent-cloned": (scene) => {
    const agent = anyAgent(scene);
    if (scene.cloned.has(agent.id) || agent.process?.alive !== true) return;
    const passes = scene.random.chance(0.5);
    const { told } = agent.host;
    const host = new Host(`${agent.host.name}'`, scene.random.fork(`${agent.host.name} clone`), told);
    if (passes) host.identity = agent.host.identity;
    scene.checker.unsound.add(host.name);
    // Both do the same deployments, each on its own machine, until an operator ends one of them.
    if (passes) scene.cloned.add(agent.id);
    const clone = scene.newAgent(agent.id, host);
    clone.disk.kept = agent.disk.copy();
    scene.clones.push(clone);
    clone.start();
  },
  "agent-lies": (scene) => {
    const { host, id } = anyAgent(scene);
    scene.checker.unsound.add(host.name);
    scene.cloned.add(id);
    const until = scene.cluster.world.now + between(scene, 10_000, 60_000);
    const before = scene.cluster.tamper;
    scene.cluster.world.note(host.name, () => "has a defect: what it says is wrong at times");
    scene.cluster.tamper = (agentId, message) =>
      agentId === id && scene.cluster.world.now < until && scene.random.chance(0.3)
        ? wrong(scene.random, message)
        : before(agentId, message);
  },
  "agent-revoked": (scene) => leave(scene, "REVOKED", 0.3),
  "agent-retired": (scene) => leave(scene, "RETIRED", 0.3),
  "network-cut": (scene) => scene.cluster.network.cut(anyAgent(scene).id),
  "network-half-open": (scene) => scene.cluster.network.deafen(anyAgent(scene).id),
  "network-partition": (scene) => {
    const { network, world } = scene.cluster;
    const { id } = anyAgent(scene);
    world.note(id, () => "is cut off");
    network.unreached.add(id);
    network.deafen(id);
    world.at(between(scene, 5_000, 150_000), () => network.unreached.delete(id));
  },
  "network-slow": (scene) => {
    const { network, world } = scene.cluster;
    const { id } = anyAgent(scene);
    network.slowed.set(id, between(scene, 5, 80));
    world.at(between(scene, 5_000, 60_000), () => network.slowed.delete(id));
  },
  "network-no-fetch": (scene) => {
    const { network, world } = scene.cluster;
    const { id } = anyAgent(scene);
    world.note(id, () => "gets no answers to fetches");
    network.mute.add(id);
    world.at(scene.random.chance(0.5) ? between(scene, 250_000, 400_000) : between(scene, 10_000, 60_000), () =>
      network.mute.delete(id),
    );
  },
  "runtime-slow": (scene) => {
    const { host } = anyAgent(scene);
    host.slow = 0.5;
    host.stuck = 0.1;
    host.failing = 0.5;
    scene.cluster.world.at(between(scene, 10_000, 60_000), () => host.mend());
  },
  "replica-crash": (scene) => {
    const up = liveReplicas(scene);
    if (up.length > 0) crashReplica(scene, scene.random.pick(up));
  },
  "replica-pause": (scene) => {
    const up = liveReplicas(scene);
    if (up.length > 0)
      scene.random
        .pick(up)
        .process.pause(scene.random.pick([between(scene, 500, 5_000), between(scene, 10_000, 90_000)]));
  },
  "commit-fault": (scene) => {
    const { store } = scene.cluster;
    let skip = scene.random.below(6);
    store.commitFault = (process: Process) => {
      const replica = scene.cluster.replicas.find((one) => one.process === process);
      if (skip-- > 0 || replica === undefined) return undefined;
      store.commitFault = undefined;
      const how = scene.random.pick(["before", "lost", "after"] as const);
      process.note(() => `COMMIT: ${how === "lost" ? "its answer is lost" : `killed ${how} it`}`);
      if (how !== "lost") crashReplica(scene, undefined);
      return how;
    };
  },
  "database-away": (scene) =>
    awayFor(scene, scene.random.pick([between(scene, 300, 5_000), between(scene, 20_000, 70_000)])),
  "database-restored": (scene) => {
    const { store, world } = scene.cluster;
    awayFor(scene, between(scene, 1_000, 10_000), () => {
      if (scene.mended) return;
      const at = store.restore(
        between(scene, 200, 40_000),
        scene.random.chance(0.5) ? wasUnderWay(store.tables) : () => true,
      );
      if (at === undefined) return;
      world.note("database", () => `is back at ${(at / 1000).toFixed(3)}`);
      scene.checker.restored();
      if (scene.random.chance(0.3)) return; // a failover that lost its tail: nobody says so
      const held = store.tables.installation.get("installation");
      store.tables.installation.set("installation", {
        id: "installation",
        incarnation: held?.incarnation ?? 1,
        dispatchHeld: true,
      });
      operate(scene, ({ engine }) => markRestored(engine));
      world.at(between(scene, 15_000, 40_000), () => operate(scene, ({ engine }) => confirmDispatch(engine)));
    });
  },
  "hints-lost": (scene) => {
    const { hints, world } = scene.cluster;
    hints.lost = scene.random.pick([0.5, 1]);
    world.at(between(scene, 5_000, 90_000), () => (hints.lost = 0.05));
  },
  "operator-decides": (scene) => decide(scene),
} as const satisfies Record<string, Fault>;

export type FaultName = keyof typeof faults;

/** What seldom comes together by chance, and is met only together. */
export const together: readonly (readonly FaultName[])[] = [
  ["database-restored", "operator-decides", "runtime-slow"],
  ["database-restored", "operator-decides", "network-partition", "agent-crash"],
  ["agent-disk-full", "agent-journal-lost", "network-cut", "network-slow"],
  ["agent-revoked", "agent-retired", "runtime-slow", "network-partition"],
  ["agent-lies", "network-no-fetch", "replica-pause"],
];

/** Whether a command was on its way then whose deployment has moved on since: what a fork has to settle. */
function wasUnderWay(now: Tables): (then: Tables) => boolean {
  return ({ commands }) =>
    [...commands.values()].some(({ state, deploymentId, generation }) => {
      const since = (now.deployments.get(deploymentId)?.generation ?? 0) > generation;
      return since && (state === "ASSIGNED" || state === "RETRY_WAIT" || state === "RUNNING");
    });
}

/** The agent's process ends, and the next one finds this disk. */
function comeBack(scene: Scene, agent: Agent, disk: Kept): void {
  if (scene.mended) return;
  agent.kill();
  agent.disk.kept = disk;
  scene.cluster.world.note(agent.host.name, () => (disk.log === undefined ? "lost its journal" : "has an older disk"));
  scene.checker.forget(agent.host.name);
  startLater(scene, agent, between(scene, 100, 20_000));
}

function leave(scene: Scene, how: "REVOKED" | "RETIRED", share: number): void {
  const agent = anyAgent(scene);
  // Most of a history's agents stay: else there is nobody left to try.
  if (!scene.random.chance(share) || scene.gone.size + 1 >= scene.agents.length) return;
  scene.gone.add(agent.id);
  scene.cluster.world.note("operator", () => `${agent.id} is ${how}`);
  operate(scene, ({ engine }) => endLife(engine, agent.id, how));
}

/** Operators answer what waits for them. */
export function decide(scene: Scene): void {
  const { store, ids, world } = scene.cluster;
  for (const { id, state } of store.tables.agents.values()) {
    if (state === "CONFLICT") {
      for (const clone of scene.clones) if (clone.id === id) clone.retire();
      world.note("operator", () => `releases ${id}`);
      operate(scene, ({ engine }) => releaseAgent(engine, id));
    }
    if (state !== "AWAITING_DECISION") continue;
    const side = scene.random.pick(["AGENT", "SERVER"] as const);
    world.note("operator", () => `accepts the ${side.toLowerCase()}'s side of ${id}`);
    operate(scene, ({ engine }) => acceptAgent(engine, ids, id, side));
  }
}

function wrong(random: Random, message: AgentMessage["message"]): AgentMessage["message"] {
  if (message.case === "commandReceipt") {
    const { ACCEPTED, DUPLICATE, NOT_NOW, REJECTED, DISPOSITION_UNSPECIFIED } = CommandReceipt_Disposition;
    const disposition = random.pick([ACCEPTED, DUPLICATE, NOT_NOW, REJECTED, DISPOSITION_UNSPECIFIED]);
    return { case: "commandReceipt", value: { ...message.value, disposition } };
  }
  if (message.case !== "deployResult") return message;
  const { commandId, attempt } = message.value;
  if (random.chance(0.3)) {
    const receipt = { commandId, attempt, disposition: CommandReceipt_Disposition.REJECTED, reason: "", message: "" };
    return { case: "commandReceipt", value: { ...receipt, $typeName: "bowline.agent.v1.CommandReceipt" } };
  }
  const outcome = random.pick([
    DeployResult_Outcome.SUCCEEDED,
    DeployResult_Outcome.FAILED,
    DeployResult_Outcome.CANCELLED,
  ]);
  return { case: "deployResult", value: { ...message.value, outcome } };
}
