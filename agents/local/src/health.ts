/**
 * Health checks: an HTTP GET, a connection or a command, tried again and again
 * while an instance runs.
 *
 * H1: before the first success it is tried more often than the interval says,
 *     so that a converge does not wait for a whole interval; failures count
 *     only at the pace of the interval, after the start period.
 * H2: one try at a time, each with an end.
 */
import { spawn } from "node:child_process";
import { get } from "node:http";
import { connect } from "node:net";
import { systemClock } from "@bowline/kernel";
import type { InstanceHealth } from "@bowline/agent-core";
import type { HealthCheck } from "@bowline/contract/deployments";
import { findPort, milliseconds, reachable } from "@bowline/agent-core/runtimes";
import type { AssignedPort } from "@bowline/agent-core/runtimes";
import { markers } from "./processes.ts";

/** Between two tries before the first success (H1). */
const startIntervalMs = 250;

/** What the contract promises where the check says nothing. */
const defaults = { intervalMs: 10_000, timeoutMs: 5_000, retries: 3 };

/** Shortest pause between two tries, whatever the check says: a check must not become the load. */
const shortestIntervalMs = 50;

/** Of a failing command's output, shown as the reason. */
const outputBytes = 512;

/** Where a check is done. */
export interface HealthTarget {
  ports: readonly AssignedPort[];
  environment: Readonly<Record<string, string>>;
  workingDir: string;
}

/** Outcome of one try: undefined, or what was wrong. */
type Failure = string | undefined;

/**
 * Watches until `signal` aborts. Calls `changed` with the first health that is
 * known and with every other one after it.
 */
export async function watchHealth(
  check: HealthCheck,
  target: HealthTarget,
  changed: (health: InstanceHealth, reason: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const intervalMs = Math.max(milliseconds(check.interval) || defaults.intervalMs, shortestIntervalMs);
  const timeoutMs = milliseconds(check.timeout) || defaults.timeoutMs;
  const retries = check.retries || defaults.retries;
  const startedMs = performance.now();
  const startPeriodMs = milliseconds(check.startPeriod) ?? 0;
  let health: InstanceHealth = "UNKNOWN";
  let succeededOnce = false;
  let failures = 0;
  let countAgainMs = 0;

  while (!signal.aborted) {
    const failure = await tryOnce(check, target, timeoutMs, signal);
    if (signal.aborted) return;
    const nowMs = performance.now();
    if (failure === undefined) {
      succeededOnce = true;
      failures = 0;
      if (health !== "HEALTHY") changed((health = "HEALTHY"), "");
    } else if (succeededOnce || (nowMs - startedMs >= startPeriodMs && nowMs >= countAgainMs)) {
      failures += 1;
      countAgainMs = nowMs + intervalMs;
      if (failures >= retries && health !== "UNHEALTHY") changed((health = "UNHEALTHY"), failure);
    }
    const eager = !succeededOnce && health !== "UNHEALTHY";
    await systemClock.sleep(eager ? Math.min(intervalMs, startIntervalMs) : intervalMs, signal);
  }
}

async function tryOnce(
  check: HealthCheck,
  target: HealthTarget,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Failure> {
  const { probe } = check;
  const limit = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  switch (probe.case) {
    case "http": {
      const port = findPort(target.ports, probe.value.port);
      return port === undefined ? "its port is not there" : await tryHttp(port, probe.value.path || "/", limit);
    }
    case "tcp": {
      const port = findPort(target.ports, probe.value.port);
      return port === undefined ? "its port is not there" : await tryTcp(port, limit);
    }
    case "exec":
      return await tryExec(probe.value.command, target, limit);
    case undefined:
      return undefined;
    default:
      return probe satisfies never;
  }
}

function tryHttp(port: AssignedPort, path: string, limit: AbortSignal): Promise<Failure> {
  const { host, port: number } = reachable(port);
  return new Promise((resolve) => {
    const request = get({ host, port: number, path, agent: false, signal: limit }, (response) => {
      const status = response.statusCode ?? 0;
      response.destroy(); // only the status counts, the body may be endless
      resolve(status >= 200 && status < 400 ? undefined : `GET ${path} answers ${status}`);
    });
    request.once("error", (error) => resolve(`GET ${path}: ${limit.aborted ? "no answer in time" : error.message}`));
  });
}

function tryTcp(port: AssignedPort, limit: AbortSignal): Promise<Failure> {
  return new Promise((resolve) => {
    const { host, port: number } = reachable(port);
    const socket = connect({ host, port: number, signal: limit });
    socket.once("connect", () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.once("error", (error) => resolve(limit.aborted ? `no connection to ${number} in time` : error.message));
  });
}

function tryExec(command: readonly string[], target: HealthTarget, limit: AbortSignal): Promise<Failure> {
  const [program, ...args] = command;
  return new Promise((resolve) => {
    const child = spawn(program ?? "", args, {
      cwd: target.workingDir,
      env: { ...target.environment, [markers.probe]: "1" },
      detached: true, // a group of its own, so that all of it ends with the try (H2)
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    const keep = (chunk: Buffer): void => {
      if (output.length < outputBytes) output += chunk.toString("utf8").slice(0, outputBytes - output.length);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    const end = (failure: Failure): void => {
      limit.removeEventListener("abort", tooLate);
      if (child.pid !== undefined) killGroup(child.pid);
      child.stdout.destroy(); // a grandchild may hold them open
      child.stderr.destroy();
      resolve(failure);
    };
    const tooLate = (): void => end(`${program} did not end in time`);
    limit.addEventListener("abort", tooLate, { once: true });
    child.once("error", (error) => end(error.message));
    child.once("exit", (code, signal) =>
      end(
        code === 0
          ? undefined
          : `${program} ended with ${signal ?? `exit code ${code}`}${output === "" ? "" : `: ${output.trim()}`}`,
      ),
    );
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // Nothing of the try is left: that was the aim.
  }
}
