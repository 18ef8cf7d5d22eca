/**
 * Looks at the backends before anything is changed: that the policy allows
 * their addresses, and that they take connections from here.
 */
import { lookup } from "node:dns/promises";
import { connect, isIP } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { ConvergeEnd } from "@bowline/agent-core";
import type { Backend, Routes, ServedApiService } from "@bowline/contract/deployments";
import { isPrivateAddress } from "../addresses.ts";
import { readBackendUrl } from "../proxy/backends.ts";

/** Waits between the tries: a backend that is just being restarted is back by then. */
const waitsMs = [2_000, 4_000, 8_000] as const;
/** Of the contract: Backend.connect_timeout. */
const defaultConnectTimeoutMs = 5_000;
/** Connections that are opened at once. */
const atOnce = 16;

interface Check {
  /** A route that sends to it; undefined: only mirrors do, or nobody does. Then it may be down. */
  route: string | undefined;
  backend: Backend;
}

/** Undefined: all is well. `waitScale` stretches the waits (tests). Throws only when `signal` aborts. */
export async function checkBackends(
  routes: Routes,
  waitScale: number,
  signal: AbortSignal,
): Promise<ConvergeEnd | undefined> {
  const checks = routes.apiServices.flatMap(checksOf);
  const failures: (ConvergeEnd | undefined)[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < checks.length) {
      const i = next++;
      failures[i] = await checkOne(checks[i]!, routes.allowPrivateBackends, waitScale, signal);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, checks.length) }, work));
  return failures.find((failure) => failure !== undefined);
}

function checksOf(service: ServedApiService): Check[] {
  return service.backends.map((backend) => ({
    backend,
    route: service.routes.find((route) =>
      route.backends.some((share) => share.backend === backend.name && share.weight !== 0),
    )?.name,
  }));
}

async function checkOne(
  { route, backend }: Check,
  allowPrivate: boolean,
  waitScale: number,
  signal: AbortSignal,
): Promise<ConvergeEnd | undefined> {
  let where: { host: string; port: number };
  try {
    where = readBackendUrl(backend.url);
  } catch {
    return undefined; // The data plane refuses it, with the field's path.
  }
  const named = `backend "${backend.name}" at ${backend.url}`;
  const timeoutMs =
    backend.connectTimeout === undefined
      ? defaultConnectTimeoutMs
      : Number(backend.connectTimeout.seconds) * 1000 + backend.connectTimeout.nanos / 1e6;
  const from = performance.now();
  for (let tries = 1; ; tries += 1) {
    const found = await tryOnce(where, route !== undefined, allowPrivate, Math.max(1, timeoutMs), signal);
    signal.throwIfAborted();
    if (found.kind === "fine") return undefined;
    if (found.kind === "private") {
      const message = `${named} is at the private address ${found.address}; the cluster's policy does not allow that`;
      return { kind: "failed", reason: "PRIVATE_BACKEND", message, worthRetry: false };
    }
    if (route === undefined) return undefined;
    const waitMs = waitsMs[tries - 1];
    if (waitMs === undefined) {
      const seconds = Math.round((performance.now() - from) / 1000);
      const message = `route "${route}" sends to ${named}: ${found.problem}, ${tries} tries in ${seconds} s`;
      return { kind: "failed", reason: "BACKEND_UNREACHABLE", message, worthRetry: false };
    }
    await sleep(waitMs * waitScale, undefined, { signal });
  }
}

type Found = { kind: "fine" } | { kind: "private"; address: string } | { kind: "down"; problem: string };

async function tryOnce(
  { host, port }: { host: string; port: number },
  dial: boolean,
  allowPrivate: boolean,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Found> {
  let addresses = [host];
  if (isIP(host) === 0) {
    try {
      addresses = (await lookup(host, { all: true })).map(({ address }) => address);
    } catch (error) {
      return { kind: "down", problem: `the name does not resolve (${(error as NodeJS.ErrnoException).code})` };
    }
  }
  const forbidden = allowPrivate ? undefined : addresses.find(isPrivateAddress);
  if (forbidden !== undefined) return { kind: "private", address: forbidden };
  if (!dial) return { kind: "fine" };
  let problem = "no address";
  for (const address of addresses) {
    const failed = await dialOnce(address, port, timeoutMs, signal);
    if (failed === undefined) return { kind: "fine" };
    problem = failed;
  }
  return { kind: "down", problem };
}

/** Undefined: it took the connection. */
function dialOnce(host: string, port: number, timeoutMs: number, signal: AbortSignal): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, signal });
    const timer = setTimeout(() => end(`no connection within ${timeoutMs} ms`), timeoutMs);
    const end = (problem: string | undefined): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(problem);
    };
    socket.once("connect", () => end(undefined));
    socket.on("error", (error: NodeJS.ErrnoException) => end(problems[error.code ?? ""] ?? error.message));
  });
}

const problems: Record<string, string> = {
  ECONNREFUSED: "connection refused",
  EHOSTUNREACH: "no route to the host",
  ENETUNREACH: "no route to the network",
  ETIMEDOUT: "no connection in time",
  ECONNRESET: "connection reset",
};
