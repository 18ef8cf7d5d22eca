/**
 * What an agent does for an instance while it runs: looks at its health,
 * notices that it has settled, and ends a job at its deadline.
 *
 *   instances.ts  the life around it    health.ts  the checks
 */
import { systemClock } from "@bowline/kernel";
import type { InstanceHealth } from "@bowline/agent-core";
import type { Workload } from "@bowline/contract/deployments";
import { tryExec } from "./health.ts";
import type { LiveRun } from "./launch.ts";
import { markers } from "./processes.ts";
import type { AssignedPort } from "@bowline/agent-core/runtimes";
import type { Times } from "./times.ts";
import { findPort, milliseconds, reachable, watchHealth } from "@bowline/agent-core/runtimes";

export interface Attended {
  run: LiveRun;
  workload: Workload;
  ports: readonly AssignedPort[];
  workingDir: string;
  /** All variables of the process but its run's marker. */
  environment: () => Promise<Record<string, string>>;
}

export interface Attention {
  settled(): void;
  health(health: InstanceHealth, reason: string): void;
  /** The run has reached its deadline. */
  overdue(deadlineMs: number): Promise<void>;
  failed(error: unknown): void;
}

/** Goes on until `signal` aborts. What it notices after that, it doesn't say. */
export function attend(
  { run, workload, ports, workingDir, environment }: Attended,
  times: Times,
  on: Attention,
  signal: AbortSignal,
): void {
  // By the wall clock, because an earlier agent may have started it.
  const ranMs = Math.max(0, Date.now() - run.record.startedAt);
  const after = async (ms: number, act: () => Promise<void> | void): Promise<void> => {
    await systemClock.sleep(ms - ranMs, signal);
    if (!signal.aborted) await act();
  };
  const check = workload.healthCheck;
  const deadlineMs = milliseconds(workload.runToCompletion?.deadline);
  const parts = [
    after(times.settleMs, () => on.settled()),
    ...(deadlineMs === undefined ? [] : [after(deadlineMs, () => on.overdue(deadlineMs))]),
    ...(check === undefined ? [] : [watch()]),
  ];
  for (const part of parts) void part.catch((error: unknown) => signal.aborted || on.failed(error));

  async function watch(): Promise<void> {
    if (check === undefined) return;
    const surroundings = { environment: { ...(await environment()), [markers.run]: run.record.run }, workingDir };
    const target = {
      reach(wanted: string) {
        const port = findPort(ports, wanted);
        return port === undefined ? undefined : reachable(port);
      },
      exec: (command: readonly string[], limit: AbortSignal) => tryExec(command, surroundings, limit),
    };
    await watchHealth(check, target, (health, reason) => signal.aborted || on.health(health, reason), signal);
  }
}
