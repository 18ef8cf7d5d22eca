/** One history: a few replicas and agents, calls and faults for some minutes, then everything is mended and has to come to its end. */
import { Agent } from "./agent.ts";
import { Checker, type Violation } from "./checker.ts";
import { Clients } from "./clients.ts";
import type { Cluster } from "./cluster.ts";
import { Coverage } from "./coverage.ts";
import { productRules, type Rules } from "./engine.ts";
import { decide, type FaultName, faults, operate, type Scene, together } from "./faults.ts";
import { Hints } from "./hints.ts";
import { Host } from "./host.ts";
import { Network } from "./network.ts";
import { createRandom } from "./random.ts";
import { Replica } from "./replica.ts";
import type { Server } from "./server.ts";
import { confirmDispatch, endLife } from "./sessions.ts";
import { Store } from "./store.ts";
import { isTerminal } from "../../services/control-plane/src/commands/index.ts";
import { World } from "./world.ts";

export interface Options {
  trace?: boolean;
  /** What the mutation checks break. */
  rules?: Partial<Rules>;
  agentDefect?: "disk-lies" | "no-adoption";
  /** Only so many faults happen: for shrinking. */
  maxFaults?: number;
}

export interface History {
  seed: string;
  violations: readonly Violation[];
  coverage: Coverage;
  trace: readonly string[];
  /** Which faults happened, in order. */
  faults: readonly FaultName[];
  commands: number;
  /** Virtual ms. */
  tookMs: number;
}

/** From the mending on, everything has to be at its end within this: the longest backoffs, and a converge that hangs. */
const recoveryMs = 1_500_000;
const lookEveryMs = 5_000;

export async function simulate(seed: string, options: Options = {}): Promise<History> {
  const random = createRandom(seed);
  const world = new World(random, options.trace === true);
  const store = new Store(world, random.fork("store"));
  const coverage = new Coverage();
  const network = new Network(random.fork("network"));
  const agents: Agent[] = [];
  const clones: Agent[] = [];
  const checker = new Checker(store, coverage, () => [...agents, ...clones].map((agent) => agent.host));
  const cluster = clusterOf(world, store, network, checker, options);
  const startReplica = (): Replica => {
    const replica = new Replica(cluster, `r${cluster.replicas.length + 1}`);
    cluster.replicas.push(replica);
    return replica;
  };
  const choose = (): Server | undefined => {
    const up = cluster.replicas.filter((replica) => replica.process.alive);
    return up.length === 0 ? undefined : cluster.random.pick(up);
  };
  const newAgent = (id: string, host: Host): Agent =>
    new Agent({ world, random: random.fork(host.name), network, choose }, id, host);
  for (let at = 1 + random.below(3); at > 0; at -= 1) startReplica();
  for (let at = 1; at <= 1 + random.below(3); at += 1) {
    const id = `agent${at}`;
    const host = new Host(`host${at}`, random.fork(`host${at}`), (effect) => checker.effect(effect));
    const agent = newAgent(id, host);
    agent.skewMs = random.chance(0.3) ? random.between(-300_000, 300_000) : 0;
    agent.disk.lies = options.agentDefect === "disk-lies";
    host.adopts = options.agentDefect !== "no-adoption";
    store.tables.agents.set(id, {
      id,
      state: "ENROLLED",
      runtimeIdentity: host.identity,
      journalId: "",
      journalCounter: 0,
    });
    agents.push(agent);
    agent.start();
  }
  const scene: Scene = {
    ...{ cluster, checker, random: random.fork("faults"), agents, clones },
    ...{ gone: new Set(), cloned: new Set(), mended: false, startReplica, newAgent },
  };
  const clients = new Clients(
    cluster,
    checker,
    random.fork("clients"),
    agents.map((agent) => agent.id),
  );
  clients.run(random.between(1_500, 8_000));
  const happened = drawFaults(scene, random.between(40_000, 240_000), options.maxFaults);
  const late: string[] = [];
  await world.run(watch(scene, clients, happened.untilMs, late));
  if (checker.violations.length === 0) {
    const sound = (agent: Agent): boolean => !scene.gone.has(agent.id) && !scene.cloned.has(agent.id);
    checker.final(
      late,
      agents.map((agent) => ({ id: agent.id, host: agent.host, sound: sound(agent) })),
    );
  }
  return {
    ...{ seed, violations: checker.violations, coverage, trace: world.trace ?? [] },
    ...{ faults: happened.names, commands: store.tables.commands.size, tookMs: world.now },
  };
}

function clusterOf(world: World, store: Store, network: Network, watcher: Checker, options: Options): Cluster {
  const numbers = { command: 0, deployment: 0, session: 0 };
  const next = (kind: keyof typeof numbers): string => `${kind}${(numbers[kind] += 1)}`;
  const random = world.random.fork("cluster");
  return {
    ...{ world, store, network, watcher, random, replicas: [] },
    rules: { ...productRules, ...options.rules },
    ids: { command: () => next("command"), deployment: () => next("deployment"), session: () => next("session") },
    hints: new Hints(world, random.fork("hints")),
    tamper: (_agentId, message) => message,
  };
}

/** Some kinds, each some times, until the time is over. */
function drawFaults(
  scene: Scene,
  untilMs: number,
  most = Number.POSITIVE_INFINITY,
): { untilMs: number; names: FaultName[] } {
  const { random, cluster } = scene;
  const all = Object.keys(faults) as FaultName[];
  const kinds = random.chance(0.3) ? random.pick(together) : all.filter(() => random.chance(0.25));
  cluster.store.keeps = kinds.includes("database-restored");
  const names: FaultName[] = [];
  const everyMs = random.between(4_000, 30_000);
  const next = (): void => {
    cluster.world.at(random.between(0.1, 2) * everyMs, () => {
      if (cluster.world.now >= untilMs) return;
      const name = random.pick(kinds);
      if (names.length < most) {
        names.push(name);
        cluster.world.note("fault", () => name);
        faults[name](scene);
      }
      next();
    });
  };
  if (kinds.length > 0) next();
  return { untilMs, names };
}

/** Mends everything when the time is over, and ends the history when all is at its end, or a violation was seen. */
function watch(scene: Scene, clients: Clients, untilMs: number, late: string[]): () => boolean {
  const { cluster, checker } = scene;
  const { world, store } = cluster;
  let over = false;
  const look = (mendedAt: number): void => {
    mend(scene);
    const open = [...store.tables.commands.values()].filter((row) => !isTerminal(row.state));
    const busy = scene.agents.filter(({ host }) => [...host.under.values()].some((count) => count > 0));
    const away = scene.agents.filter((agent) => !scene.gone.has(agent.id) && !isServed(store, agent));
    const { agents: rows, installation } = store.tables;
    const asked = scene.agents.some(({ id }) => !scene.gone.has(id) && rows.get(id)?.state !== "ENROLLED");
    const held = installation.get("installation")?.dispatchHeld === true;
    const settled = !asked && !held && open.length === 0 && busy.length === 0 && away.length === 0 && store.up;
    if (settled || world.now - mendedAt > recoveryMs) {
      for (const row of open)
        late.push(
          `${row.id} of ${row.agentId} is ${row.state} ${Math.round(recoveryMs / 60_000)} min after all was mended`,
        );
      over = true;
    } else world.at(lookEveryMs, () => look(mendedAt));
  };
  world.at(untilMs, () => {
    world.note("all", () => "everything is mended");
    clients.stopped = true;
    scene.mended = true;
    // A session lives two hours: by then each has told anew what it has, also where a failover went unnoticed.
    for (const { id } of scene.agents) cluster.network.cut(id);
    // Calls that are under way come to their end first.
    world.at(30_000, () => look(world.now));
  });
  return () => over || checker.violations.length > 0;
}

/** Whether the process that runs now is the one that is served. */
function isServed(store: Store, agent: Agent): boolean {
  const session = store.tables.sessions.get(agent.id);
  return session?.state === "SERVING" && session.processId === agent.processId;
}

function mend(scene: Scene): void {
  const { cluster, agents, clones, gone } = scene;
  const { network, store, replicas } = cluster;
  network.unreached.clear();
  network.slowed.clear();
  network.mute.clear();
  store.commitFault = undefined;
  for (const clone of clones) clone.retire();
  for (const { host, disk } of agents) {
    Object.assign(host, { failing: 0, stuck: 0, slow: 0, around: undefined });
    Object.assign(disk, { full: false, around: undefined });
  }
  if (!replicas.some((replica) => replica.process.alive)) scene.startReplica();
  for (const agent of agents) if (agent.process?.alive !== true && !gone.has(agent.id)) agent.start();
  if (!store.up) return;
  decide(scene);
  if (store.tables.installation.get("installation")?.dispatchHeld === true)
    operate(scene, ({ engine }) => confirmDispatch(engine));
  for (const id of gone)
    if (store.tables.agents.get(id)?.state !== "RETIRED")
      operate(scene, ({ engine }) => endLife(engine, id, "RETIRED"));
}
