/**
 * Commands per second from the call that enqueues to the recorded result, all
 * fences on, beside the same program with nothing kept and with queues from npm
 * in the place of the engine. Every side is one server process that gets the
 * same calls and serves the same agents over the same messages.
 */
import { type Figure, percentile, ratios } from "../harness/figures.ts";
import { cpuMs } from "../harness/processor-time.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Run, Scenario } from "../harness/scenario.ts";
import type { LoadCalls } from "../load/main.ts";
import { jobsTogether } from "../peers/queue.ts";
import type { Child } from "../stand/child.ts";
import { addDeployments, enrolGroup } from "../stand/seed.ts";
import { asDatabase, type Stand } from "../stand/stand.ts";

/**
 * Commands under way at the same time, one per deployment. Rates are asked for, so nothing is to wait for a disk alone:
 * the platform carries 7,000 commands/s at most, and each waits for three commits of some ms one after the other, so
 * 150 under way could keep it busy; a little more of them than that, and as many as the peers' workers take together.
 */
export const callers = jobsTogether;
/** Four deployments each: far below the 16 that an agent is given at once, so no window limits a side. */
export const agents = callers / 4;

const peers = [
  { queue: "none", of: "the same with no database", limit: { atLeast: 0.5 } },
  { queue: "graphile-worker", of: "graphile-worker as documented", limit: { atLeast: 5 } },
  { queue: "graphile-worker, batched", of: "graphile-worker with our batching", limit: { atLeast: 0.95 } },
  { queue: "pg-boss", of: "pg-boss", limit: { atLeast: 5 } },
  { queue: "BullMQ", of: "BullMQ (another durability contract)", limit: { atLeast: 1.5 } },
] as const;

/** One side that is ready to be measured. */
export interface Ready {
  pids: readonly number[];
  /** Everything of the last measurement is kept as done. */
  settled: () => Promise<void>;
}

export const dispatch: Scenario = {
  name: "dispatch",
  what: "commands/s, enqueue to recorded result, beside no database, graphile-worker, pg-boss, BullMQ",
  minutes: 7,
  async measure(run) {
    const { stand, quick } = run;
    const load = stand.load();
    const forMs = quick ? 3_000 : 8_000;
    const chosen = peers.filter(({ queue }) => run.only.length === 0 || run.only.includes(queue));
    const sides: Record<string, () => Promise<Record<string, number>>> = {};
    const bowline = await readyBowline(stand, load);
    sides["Bowline"] = () => measured(run, load, "Bowline", bowline, forMs);
    for (const { queue } of chosen) {
      const ready = await readyPeer(stand, load, queue);
      sides[queue] = () => measured(run, load, queue, ready, forMs);
    }
    // Compiled code and grown pools on every side before the first round.
    for (const side of Object.keys(sides)) await warmUp(run, load, side, forMs);
    const values = await interleaved(sides, run);
    const figures = chosen.map(({ queue, of, limit }): Figure => ({
      id: `dispatch/${queue}`,
      what: `commands/s ÷ ${of}`,
      limit,
      rounds: ratios(values["Bowline"]?.["commands/s"] ?? [], values[queue]?.["commands/s"] ?? []),
    }));
    return {
      figures,
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: [
        `${underWay(run)} commands under way, one per deployment, ${agents} agents with a connection each; ${forMs / 1000} s a round`,
        "every command of every side was accepted, pushed and recorded once, or the run would have been void",
      ],
    };
  },
};

/** A Bowline on a database of its own with a fleet that is connected to it. */
export async function readyBowline(
  stand: Stand,
  load: Child<LoadCalls>,
  { name = "Bowline", redis = true }: { name?: string; redis?: boolean } = {},
): Promise<Ready & { server: Awaited<ReturnType<Stand["server"]>> }> {
  const server = await stand.server({
    database: await stand.database(asDatabase(name)),
    flags: redis ? ["--redis-url", stand.redis.url] : [],
  });
  const agentIds = await enrolGroup(server, load, { group: name, count: agents });
  const deployments = await addDeployments(server, agentIds, callers / agents);
  const authorization = `Bearer ${server.adminToken}`;
  await load.call("openFleet", { fleet: name, group: name, url: server.url, authorization, deployments });
  return { server, pids: [server.process.pid], settled: async () => undefined };
}

export async function readyPeer(stand: Stand, load: Child<LoadCalls>, queue: string): Promise<Ready> {
  const onPostgres = queue !== "none" && queue !== "BullMQ";
  const { child, url } = await stand.peer({ queue, database: onPostgres ? asDatabase(queue) : undefined });
  const agentIds = await load.call("enrol", { group: queue, url, count: agents });
  const deployments = Array.from({ length: callers }, (_, index) => `deployment_${index}`);
  const owners = new Map(deployments.map((id, index) => [id, agentIds[index % agentIds.length] ?? ""]));
  await child.call("own", { owners });
  await load.call("openFleet", { fleet: queue, group: queue, url, authorization: "Bearer bench", deployments });
  return { pids: [child.pid], settled: () => child.call("settled", undefined) };
}

/** In the short form fewer: it is for busy machines too, where calls of so many would wait too long for a connection. */
const underWay = ({ quick }: Pick<Run, "quick">): number => (quick ? callers / 4 : callers);

/** Compiled code and grown pools; few callers first, since a server that was just started is slow. */
export async function warmUp(
  run: Pick<Run, "quick">,
  load: Child<LoadCalls>,
  fleet: string,
  forMs: number,
): Promise<void> {
  await load.call("dispatch", { fleet, callers: callers / 16, forMs: forMs / 2 });
  await load.call("dispatch", { fleet, callers: underWay(run), forMs });
}

/** One round of one side. */
export async function measured(
  run: Pick<Run, "stand" | "quick">,
  load: Child<LoadCalls>,
  fleet: string,
  { pids, settled }: Ready,
  forMs: number,
): Promise<Record<string, number>> {
  const { stand } = run;
  const used = async () => {
    const servers = await Promise.all(pids.map((pid) => cpuMs(pid)));
    return {
      server: servers.reduce((a, b) => a + b, 0),
      stores: (await stand.postgresCpuMs()) + (await stand.redis.cpuMs()),
      load: await cpuMs(load.pid),
    };
  };
  const before = await used();
  const { commands, seconds, acceptedMs, pushedMs } = await load.call("dispatch", {
    ...{ fleet, forMs },
    callers: underWay(run),
  });
  const settling = performance.now();
  await settled();
  const tookSeconds = seconds + (performance.now() - settling) / 1000;
  const after = await used();
  const cpu = (of: keyof typeof before): number => after[of] - before[of];
  return {
    "commands/s": commands / tookSeconds,
    "commands/CPU s": commands / ((cpu("server") + cpu("stores")) / 1000),
    "server CPU ms/command": cpu("server") / commands,
    "stores' CPU ms/command": cpu("stores") / commands,
    "load CPU ms/command": cpu("load") / commands,
    "server % of a core": cpu("server") / tookSeconds / 10,
    "load % of a core": cpu("load") / tookSeconds / 10,
    "accepted p50 ms": percentile(acceptedMs, 50),
    "pushed p50 ms": percentile(pushedMs, 50),
  };
}
