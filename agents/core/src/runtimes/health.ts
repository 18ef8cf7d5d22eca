/**
 * Health checks: an HTTP GET, a connection or a command, tried again and again
 * while an instance runs.
 *
 * H1: before the first success it is tried more often than the interval says,
 *     so that a converge does not wait for a whole interval; failures count
 *     only at the pace of the interval, after the start period.
 * H2: one try at a time, each with an end.
 */
import { get } from "node:http";
import { connect } from "node:net";
import { systemClock } from "@bowline/kernel";
import type { InstanceHealth } from "../runtime.ts";
import type { HealthCheck } from "@bowline/contract/deployments";
import { milliseconds } from "./workloads.ts";

/** Between two tries before the first success (H1). */
const startIntervalMs = 250;

/** What the contract promises where the check says nothing. */
const defaults = { intervalMs: 10_000, timeoutMs: 5_000, retries: 3 };

/** Shortest pause between two tries, whatever the check says: a check must not become the load. */
const shortestIntervalMs = 50;

/** How an instance is reached. */
export interface HealthTarget {
  /** Where the agent reaches a port of it; undefined while it cannot. */
  reach(port: string): { host: string; port: number } | undefined;
  /** Runs a command inside until `limit` aborts. */
  exec(command: readonly string[], limit: AbortSignal): Promise<Failure>;
}

/** Outcome of one try: undefined, or what was wrong. */
export type Failure = string | undefined;

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

type Address = { host: string; port: number };

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
      const port = target.reach(probe.value.port);
      return port === undefined ? "its port is not there" : await tryHttp(port, probe.value.path || "/", limit);
    }
    case "tcp": {
      const port = target.reach(probe.value.port);
      return port === undefined ? "its port is not there" : await tryTcp(port, limit);
    }
    case "exec":
      return await target.exec(probe.value.command, limit);
    case undefined:
      return undefined;
    default:
      return probe satisfies never;
  }
}

function tryHttp({ host, port: number }: Address, path: string, limit: AbortSignal): Promise<Failure> {
  return new Promise((resolve) => {
    const request = get({ host, port: number, path, agent: false, signal: limit }, (response) => {
      const status = response.statusCode ?? 0;
      response.destroy(); // only the status counts, the body may be endless
      resolve(status >= 200 && status < 400 ? undefined : `GET ${path} answers ${status}`);
    });
    request.once("error", (error) => resolve(`GET ${path}: ${limit.aborted ? "no answer in time" : error.message}`));
  });
}

function tryTcp({ host, port: number }: Address, limit: AbortSignal): Promise<Failure> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: number, signal: limit });
    socket.once("connect", () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.once("error", (error) => resolve(limit.aborted ? `no connection to ${number} in time` : error.message));
  });
}
