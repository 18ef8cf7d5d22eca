/**
 * What the program of every agent does, whatever its runtime: settings, log,
 * signals, lifeline, exit code.
 *
 * `commands.ts` has what it does besides: help, and commands about the agent of a folder.
 *
 * Exit codes: 0 it was stopped; 1 it failed; 4 it was refused for good.
 */
import { configureFaults } from "@bowline/kernel";
import { openTraces } from "@bowline/traces";
import { runCommand } from "./commands.ts";
import { ConfigError, readConfig, type AgentConfig } from "./config.ts";
import type { DataPlaneClass } from "./dataplane.ts";
import { withDenials } from "./denials.ts";
import { loadIdentity } from "./identity.ts";
import { createLog, type Log } from "./log.ts";
import type { Runtime } from "./runtime.ts";
import { run } from "./supervise.ts";

/** After this the process ends, whatever hangs: below the 8 s that a parent waits for its lifeline. */
const exitWithinMs = 7_500;
/** A second signal ends it at once, as people expect of Ctrl-C. */
const impatient = 130;

/** Runs an agent with this runtime to its end, and exits the process. */
export async function runProgram(parts: {
  createRuntime(facts: {
    config: AgentConfig;
    log: Log;
    openSecret: (sealed: string) => Promise<Uint8Array>;
  }): Promise<Runtime>;
  dataPlanes: readonly DataPlaneClass[];
}): Promise<never> {
  // Whoever read the log may be gone; what is under way, and an orderly end, go on without a reader.
  for (const output of [process.stdout, process.stderr]) output.on("error", () => {});
  const ended = await runCommand(process.argv.slice(2));
  if (ended !== undefined) return process.exit(ended);
  let config: AgentConfig;
  try {
    config = readConfig(process.argv.slice(2));
    configureFaults(config.faults, () => process.kill(process.pid, "SIGKILL") as never);
  } catch (error) {
    if (!(error instanceof ConfigError) && !(error instanceof RangeError)) throw error;
    return fail("CONFIG_INVALID", error.message);
  }
  const log = createLog({ format: config.logFormat, level: config.logLevel });
  const ending = new AbortController();
  let stopWorkloads = config.stopWorkloadsOnExit;
  const stop = (why: string): void => {
    if (ending.signal.aborted) process.exit(impatient);
    log.info({ why }, "stopping");
    ending.abort();
    setTimeout(() => fail("STOP_OVERDUE", `not stopped after ${exitWithinMs} ms`), exitWithinMs).unref();
  };
  process.on("SIGTERM", () => stop("SIGTERM"));
  process.on("SIGINT", () => stop("SIGINT"));
  if (config.lifelineStdin) {
    const cut = (): void => {
      stopWorkloads = true; // Whoever held the other end is gone, and nobody else would stop them.
      if (!ending.signal.aborted) stop("the lifeline ended");
    };
    process.stdin.on("end", cut).on("close", cut).on("error", cut).resume();
  }

  const traces = await openTraces(config.traces, { log, dropped: () => undefined });
  try {
    const identity = await loadIdentity(config.dataDir);
    const openSecret = (sealed: string): Promise<Uint8Array> => identity.keys.open(sealed);
    const runtime = withDenials(await parts.createRuntime({ config, log, openSecret }), config.deny);
    try {
      const end = await run(
        { runtime, dataPlanes: parts.dataPlanes, config, identity, openSecret, traces, log },
        ending.signal,
      );
      if (end.exitCode !== 0) {
        process.exitCode = end.exitCode;
        process.stderr.write(`bowline agent: ${end.reason}: ${end.message}\n`);
      }
    } finally {
      await runtime.close({ stopWorkloads });
      await traces.shutdown();
    }
    log.info({}, "stopped");
  } catch (error) {
    const { reason } = (error ?? {}) as { reason?: unknown };
    return fail(
      typeof reason === "string" ? reason : "AGENT_FAILED",
      error instanceof Error ? error.message : String(error),
    );
  }
  return process.exit();
}

function fail(reason: string, message: string): never {
  process.stderr.write(`bowline agent: ${reason}: ${message}\n`);
  return process.exit(1);
}
