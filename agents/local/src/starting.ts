/**
 * Starts one run of an instance: its ports, its environment, its program.
 *
 *   instances.ts  decides when    launch.ts  makes the process
 */
import type { Workload } from "@bowline/contract/deployments";
import { Refusal, asRefusal, claimPorts, errorCode } from "@bowline/agent-core/runtimes";
import { launch, LaunchFailed } from "./launch.ts";
import type { Exit, LiveRun } from "./launch.ts";
import type { Times } from "./times.ts";
import { findProgram, needsExitCode } from "./workloads.ts";
import type { Definition } from "./workloads.ts";

/** What an instance needs from its runtime. */
export interface InstanceSurroundings {
  runtimeId: string;
  bootId: string;
  times: Times;
  /** All variables of the process but its run's marker. */
  environment(definition: Definition, workload: Workload): Promise<Record<string, string>>;
  /** Gives free ports that were lost to another program other numbers. */
  renewPorts(definition: Definition): Promise<void>;
  /** Called after every change of its phase. */
  changed(): void;
  note(level: "info" | "warn" | "error", message: string, facts: Record<string, unknown>): void;
}

/** What is to be started, and where. */
export interface Starting {
  folder: string;
  definition: Definition;
  workload: Workload;
  workingDir: string;
  logPath: string;
  logStart: number;
}

/** A living run, or why there is none: to the one who supervises that is an end like any other. */
export async function startRun(starting: Starting, surroundings: InstanceSurroundings): Promise<LiveRun | Exit> {
  const { definition, workload, workingDir } = starting;
  try {
    const environment = await surroundings.environment(definition, workload);
    findProgram(workload, environment["PATH"] ?? "", workingDir);
    await surroundings.renewPorts(definition);
    await claimPorts(workload.name, definition.ports);
    const command = [...workload.command, ...workload.args];
    const recordsExit = needsExitCode(workload);
    const { folder, logPath, logStart } = starting;
    return await launch(
      { folder, command, environment, workingDir, logPath, logStart, recordsExit },
      surroundings.bootId,
    );
  } catch (error) {
    const fromSystem = error instanceof LaunchFailed || errorCode(error) !== undefined;
    const failed = asRefusal(error) ?? (fromSystem ? new Refusal("START_FAILED", String(error), true) : undefined);
    if (failed === undefined) throw error;
    const { reason, worthRetry } = failed;
    return { reason: failed.message, at: Date.now(), refused: { reason, worthRetry } };
  }
}
