/**
 * The agent, as a process of its own that dials out: enrolled once, started
 * again when it dies.
 *
 * A1: a registration token is issued only where this data directory has no
 *     identity yet, and its file is gone as soon as it is used.
 */
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Agent_Connectivity, Agent_State } from "@bowline/contract/agents";
import type { Agent } from "@bowline/contract/agents";
import { fullJitter, systemClock } from "@bowline/kernel";
import { found, unlimited } from "./api.ts";
import type { Api } from "./api.ts";
import { endText, startChild } from "./child.ts";
import type { Child } from "./child.ts";
import { root } from "./config.ts";
import { StartFailure } from "./failure.ts";
import { openLogFile } from "./log-file.ts";
import type { Screen } from "./screen.ts";
import { tail } from "./server.ts";

const program = join(root, "agents/local/src/main.ts");
/** Enrolling and connecting take a second; more on a busy machine. */
const onlineWithinMs = 60_000;
/** Its exit code where the server refuses it for good. */
const refusedForGood = 4;
const restart = { baseMs: 500, capMs: 15_000, floorMs: 250 };
/** One that ran so long had started well, and the waits begin anew. */
const stableAfterMs = 30_000;

export type RunningAgent = {
  agent: Agent;
  enrolled: boolean;
  stop(graceMs: number): Promise<void>;
};

/** Starts the agent of `clusterId` and waits until the server says that it is online. */
export async function startAgent(
  api: Api,
  screen: Screen,
  place: { dataDir: string; clusterId: string; installationId: string },
  signal: AbortSignal,
): Promise<RunningAgent> {
  const known = await identityOf(place.dataDir, place.installationId);
  const before = known === undefined ? undefined : await checkKnown(api, known, place.dataDir);
  const tokenFile = known === undefined ? await issueToken(api, place.clusterId, place.dataDir) : undefined;
  const keeper = keepRunning(api.url, place.dataDir, tokenFile, screen);
  try {
    const online = untilOnline(api, place.clusterId, before, signal);
    const agent = await Promise.race([online, keeper.firstEnd.then((why) => Promise.reject(why))]);
    return { agent, enrolled: known === undefined, stop: (graceMs) => keeper.stop(graceMs) };
  } catch (error) {
    await keeper.stop(3_000);
    throw error;
  } finally {
    if (tokenFile !== undefined) await rm(tokenFile, { force: true }); // A1
    keeper.started();
  }
}

/** The agent's id, if it enrolled at this installation before. */
async function identityOf(dataDir: string, installationId: string): Promise<string | undefined> {
  const file = join(dataDir, "agent", "agent.json");
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch {
    return undefined; // Not enrolled yet.
  }
  const { agentId, installationId: enrolledAt } = JSON.parse(text) as { agentId?: string; installationId?: string };
  if (enrolledAt === installationId) return agentId;
  throw new StartFailure("agent", "the agent in this data directory belongs to another installation", [
    `To enrol a new one, remove ${join(dataDir, "agent")}`,
  ]);
}

async function checkKnown(api: Api, id: string, dataDir: string): Promise<Agent> {
  const agent = await found(api.agents.getAgent({ id }));
  if (agent?.state === Agent_State.ENROLLED) return agent;
  const what = agent === undefined ? "is not known to the server" : `is ${stateName(agent.state)}`;
  throw new StartFailure("agent", `the agent of this data directory (${id}) ${what}`, [
    `To enrol a new one, remove ${join(dataDir, "agent")}`,
  ]);
}

function stateName(state: Agent_State): string {
  return (Object.entries(Agent_State).find(([, value]) => value === state)?.[0] ?? String(state)).toLowerCase();
}

async function issueToken(api: Api, clusterId: string, dataDir: string): Promise<string> {
  const { token } = await api.tokens.createRegistrationToken({ clusterId });
  const file = join(dataDir, "registration-token");
  await rm(file, { force: true });
  await writeFile(file, `${token}\n`, { mode: 0o600, flag: "wx" });
  return file;
}

/** Waits for a session that is newer than what the database remembers of the last run. */
async function untilOnline(
  api: Api,
  clusterId: string,
  before: Agent | undefined,
  signal: AbortSignal,
): Promise<Agent> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(onlineWithinMs)]);
  const call = new AbortController();
  const options = { signal: AbortSignal.any([limit, call.signal]), timeoutMs: unlimited };
  try {
    for await (const { agent } of api.agents.watchAgents({ clusterId }, options)) {
      if (agent?.connectivity !== Agent_Connectivity.ONLINE) continue;
      if (before === undefined || (agent.id === before.id && agent.epoch > before.epoch)) return agent;
    }
  } catch (error) {
    if (!limit.aborted) throw error;
  } finally {
    call.abort();
  }
  signal.throwIfAborted();
  throw new StartFailure("agent", `is not online after ${onlineWithinMs / 1_000} s`, [
    `Its log: agent.log in the data directory`,
  ]);
}

type Keeper = {
  /** Rejects nothing: resolves with why, if the process ends before `started()`. */
  firstEnd: Promise<StartFailure>;
  /** From now on it is started again when it dies. */
  started(): void;
  stop(graceMs: number): Promise<void>;
};

function keepRunning(url: string, dataDir: string, tokenFile: string | undefined, screen: Screen): Keeper {
  const log = openLogFile(join(dataDir, "agent.log"));
  const args = [
    "--server",
    url,
    "--data-dir",
    join(dataDir, "agent"),
    "--log-format",
    "json",
    "--lifeline-stdin",
    "--stop-workloads-on-exit",
  ];
  const stopping = new AbortController();
  const firstEnd = Promise.withResolvers<StartFailure>();
  let isStarted = false;
  const launch = (more: readonly string[]): Child => startChild(program, [...args, ...more], log, () => {});
  let child = launch(tokenFile === undefined ? [] : ["--token-file", tokenFile]);
  const kept = keep();

  return {
    firstEnd: firstEnd.promise,
    started: () => void (isStarted = true),
    async stop(graceMs) {
      stopping.abort();
      await child.stop(graceMs);
      await kept;
    },
  };

  async function keep(): Promise<void> {
    for (let attempt = 0; ; attempt += 1) {
      const from = systemClock.monotonicMs();
      const end = await child.ended;
      if (stopping.signal.aborted) return;
      if (!isStarted)
        return firstEnd.resolve(new StartFailure("agent", endText(end), [...tail(child), `Its log: ${log.path}`]));
      if (end.code === refusedForGood) {
        screen.warn("agent", "is refused by the server for good, and is not started again");
        return tail(child).forEach((line) => screen.line(`    ${line}`));
      }
      if (systemClock.monotonicMs() - from > stableAfterMs) attempt = 0;
      const waitMs = fullJitter(restart, attempt);
      screen.warn("agent", `${endText(end)}; started again in ${(waitMs / 1_000).toFixed(1)} s (what it ran goes on)`);
      await systemClock.sleep(waitMs, stopping.signal);
      if (stopping.signal.aborted) return;
      child = launch([]);
    }
  }
}
