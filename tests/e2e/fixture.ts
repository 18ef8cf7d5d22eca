/**
 * The whole, as an operator starts it: a server, agents and their data planes as
 * processes of their own, and upstreams behind them.
 *
 *   fixture.ts    servers and agents           operating.ts  what people do with them
 *   requests.ts   what consumers send          api.ts        clients, refusals
 *
 * F1: what is started here ends with the test or file that started it, also
 *     what an agent left running when it was killed.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  atEnd,
  freePort,
  isRunning,
  type RunningProcess,
  startProcess,
  temporaryFolder,
  until,
} from "@bowline/testing";
import { type Api, openApi } from "./api.ts";

const program = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
export const programs = {
  server: program("services/control-plane/src/main.ts"),
  agent: program("agents/local/src/main.ts"),
  dockerAgent: program("agents/docker/src/main.ts"),
  cli: program("services/cli/src/main.ts"),
};
const dataPlaneProgram = "agents/dataplanes/embedded/src/main.ts";

/** A cold start on two busy cores. */
const startWithinMs = 60_000;

export interface Server {
  url: string;
  port: number;
  dataDir: string;
  adminToken: string;
  /** As the administrator. */
  api: Api;
  process: RunningProcess;
  /** The same place again, after this one has ended: same port, folder and database. Only `env` is not kept. */
  again(more?: Pick<ServerOptions, "env">): Promise<Server>;
}

export interface ServerOptions {
  /** Default: a new one. */
  dataDir?: string;
  port?: number;
  /** Undefined: the embedded PostgreSQL. */
  databaseUrl?: string | undefined;
  flags?: readonly string[];
  /** A program and its arguments before ours (`setpriv …`). */
  prefix?: readonly string[];
  env?: Record<string, string | undefined>;
  /** PEM of the CA of its certificate, where the flags name one. */
  ca?: string;
}

/** Starts a server and waits until it listens. */
export async function startServer(options: ServerOptions = {}): Promise<Server> {
  const dataDir = options.dataDir ?? temporaryFolder();
  const flags = ["--port", String(options.port ?? (await freePort())), "--data-dir", dataDir, "--log-format", "json"];
  flags.push("--rate-limit-principal", "0", "--rate-limit-address", "0"); // a test calls faster than people do
  const running = startProcess({
    command: [
      ...(options.prefix ?? []),
      process.execPath,
      programs.server,
      "start",
      ...flags,
      ...(options.flags ?? []),
    ],
    env: { BOWLINE_DATABASE_URL: options.databaseUrl, ...options.env },
  });
  const line = await running.untilLine('"msg":"listening"', { withinMs: startWithinMs });
  const { url } = JSON.parse(line) as { url: string };
  const port = Number(new URL(url).port);
  const adminToken = readFileSync(join(dataDir, "admin-token"), "utf8").trim();
  const api = openApi(url, adminToken, options.ca);
  await until(async () => (await api.auth.getMe({})).id, { withinMs: startWithinMs });
  const again: Server["again"] = (more = {}) => startServer({ ...options, env: {}, dataDir, port, ...more });
  return { url, port, dataDir, adminToken, api, process: running, again };
}

export interface TestAgent {
  dataDir: string;
  process: RunningProcess;
  /** Its id, once it has enrolled. */
  id(): Promise<string>;
  /** Pids of its data planes that run now. */
  dataPlanes(): number[];
  /** SIGKILL, and waits until it is gone. What it runs goes on. */
  kill(): Promise<void>;
  /** The same folder again. Without a token: it has enrolled. */
  again(options?: { env?: Record<string, string> }): TestAgent;
}

export interface AgentOptions {
  token?: string | undefined;
  dataDir?: string;
  flags?: readonly string[];
  env?: Record<string, string>;
  prefix?: readonly string[];
  /** Default: the agent of the local runtime. */
  program?: string;
}

/** Starts an agent; it enrols and connects by itself. */
export function startAgent(url: string, options: AgentOptions = {}): TestAgent {
  const dataDir = options.dataDir ?? folderOfAnAgent();
  const flags = ["--server", url, "--data-dir", dataDir, "--log-format", "json", ...(options.flags ?? [])];
  const running = startProcess({
    command: [...(options.prefix ?? []), process.execPath, options.program ?? programs.agent, ...flags],
    env: { BOWLINE_REGISTRATION_TOKEN: options.token, ...options.env },
  });
  const agent: TestAgent = {
    dataDir,
    process: running,
    id: () =>
      until(() => (JSON.parse(readFileSync(join(dataDir, "agent.json"), "utf8")) as { agentId: string }).agentId),
    dataPlanes: () => workloadsOf(dataDir).filter((pid) => commandLine(pid).includes(dataPlaneProgram)),
    async kill() {
      running.kill("SIGKILL");
      await running.ended;
    },
    again: (more) => {
      const { token: _, ...same } = options;
      return startAgent(url, { ...same, dataDir, env: more?.env ?? {} });
    },
  };
  return agent;
}

/** A temporary folder whose agent's processes end before it goes (F1). */
export function folderOfAnAgent(): string {
  const dataDir = temporaryFolder();
  atEnd(async () => {
    for (const pid of workloadsOf(dataDir)) signal(pid, "SIGKILL");
    await until(() => workloadsOf(dataDir).every((pid) => !isRunning(pid)));
  });
  return dataDir;
}

/** Every process that the runtime in this folder has started, found by the marker in its environment. */
function workloadsOf(dataDir: string): number[] {
  let marker: string;
  try {
    marker = `BOWLINE_RUNTIME=${(JSON.parse(readFileSync(join(dataDir, "runtime.json"), "utf8")) as { id: string }).id}`;
  } catch {
    return []; // It never came so far.
  }
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && isRunning(pid) && environmentOf(pid).includes(marker));
}

function environmentOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
  } catch {
    return []; // Ended while we looked, or somebody else's.
  }
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return ""; // Ended while we looked.
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // Gone already.
  }
}
