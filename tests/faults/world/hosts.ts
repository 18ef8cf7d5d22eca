/** Hosts with a real agent each: its core as a process, its effects in a ledger (agent/). */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readFileSync } from "node:fs";
import { newId } from "@bowline/kernel";
import { type ProcessEnd, type RunningProcess, startProcess, temporaryFolder, until } from "@bowline/testing";
import { type LedgerLine, readLedger, standingAfter, type Standing } from "../agent/ledger.ts";
import { type Ways, writeWays } from "../agent/ways.ts";

const program = fileURLToPath(new URL("../agent/main.ts", import.meta.url));

/** An agent's cold start, its enrolment and its session, on two busy cores. */
const onlineWithinMs = 60_000;

export interface HostOptions {
  /** Default: a new one. */
  folder?: string;
  /** The agent's own folder: keys and journal. Default: a new one. */
  dataDir?: string;
  flags?: readonly string[];
  env?: Record<string, string | undefined>;
  /** A program and its arguments before ours. */
  prefix?: readonly string[];
  ways?: Partial<Ways>;
}

export interface Host {
  /** Of the host: ledger and identity. */
  folder: string;
  dataDir: string;
  process: RunningProcess;
  agentId(): Promise<string>;
  ledger(): LedgerLine[];
  standing(): ReadonlyMap<string, Standing>;
  /** How converges go from now on. */
  behave(ways: Partial<Ways>): void;
  /** SIGKILL, and waits until it is gone. */
  kill(): Promise<ProcessEnd>;
  /** The same host again, its agent enrolled. `env` is not kept. */
  again(more?: Pick<HostOptions, "env" | "flags" | "prefix" | "dataDir"> & { url?: string }): Host;
  /** Waits until a session of this process has been greeted. */
  online(): Promise<void>;
}

export function startHost(url: string, options: HostOptions & { token?: string | undefined }): Host {
  const folder = options.folder ?? temporaryFolder();
  const dataDir = options.dataDir ?? temporaryFolder();
  mkdirSync(folder, { recursive: true });
  if (options.folder === undefined) writeFileSync(join(folder, "identity"), newId("host"));
  if (options.ways !== undefined) writeWays(folder, options.ways);
  const running = startProcess({
    command: [
      ...(options.prefix ?? []),
      ...[process.execPath, program, "--server", url, "--data-dir", dataDir, "--log-format", "json"],
      ...["--log-level", "debug"],
      ...(options.flags ?? []),
    ],
    env: { BOWLINE_FAULTS_HOST: folder, BOWLINE_REGISTRATION_TOKEN: options.token, ...options.env },
  });
  return {
    folder,
    dataDir,
    process: running,
    agentId: () =>
      until(() => (JSON.parse(readFileSync(join(dataDir, "agent.json"), "utf8")) as { agentId: string }).agentId, {
        withinMs: onlineWithinMs,
        what: "the agent has enrolled",
      }),
    ledger: () => readLedger(folder),
    standing: () => standingAfter(readLedger(folder)),
    behave: (ways) => writeWays(folder, ways),
    async kill() {
      running.kill("SIGKILL");
      return running.ended;
    },
    again({ url: elsewhere = url, ...more } = {}) {
      const { token: _, ways: __, env: ___, ...same } = options;
      return startHost(elsewhere, { ...same, folder, dataDir, ...more });
    },
    async online() {
      await running.untilLine(/"msg":"(connected|session)/, { withinMs: onlineWithinMs });
    },
  };
}
