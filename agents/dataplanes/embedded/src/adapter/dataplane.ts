/**
 * The adapter: the agent's side of the class `embedded`.
 *
 *   workload.ts  the process as a workload   admin-client.ts  talks to it
 *   backends.ts  looks at backends first     last-good.ts     files for its restart
 *
 * G1: only what every listener has answered for becomes the last good (D1).
 * G2: whatever ends an apply otherwise, `previous` (or the last good in the
 *     volume, where the agent knows of none) serves again, or nothing of
 *     that deployment does (D2).
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { AttachedRoutes, ConvergeEnd, ConvergeProgress, DataPlaneClass, Runtime } from "@bowline/agent-core";
import type { DataPlane } from "@bowline/contract/deployments";
import { adminPortName, configVolume, workloadName, type DataPlaneStatus } from "../document.ts";
import { probe, reachAdmin, type AdminClient } from "./admin-client.ts";
import { checkBackends } from "./backends.ts";
import { forgetLastGood, keepLastGood, keepOnly, readLastGood } from "./last-good.ts";
import { compileWorkload } from "./workload.ts";

export interface EmbeddedOptions {
  /** Stretches the waits between tries at a backend (1: 2, 4 and 8 s). For tests. */
  backendWaitScale?: number;
  /** A started process opens its admin port within this, a loaded machine included. Default 15 s. */
  readyWithinMs?: number;
  /** A port that the process before still drains is free within this. Default 12 s. */
  listeningWithinMs?: number;
  /** A table is swapped in at once; the probe has this long. Default 10 s. */
  probeWithinMs?: number;
}

/** Between two looks at something that is about to become true. */
const lookAgainMs = 50;
/** A roll-back outlives the attempt's own signal, so that a cancelled attempt leaves nothing behind. */
const rollBackWithinMs = 10_000;

export function embeddedDataPlane(options: EmbeddedOptions = {}): DataPlaneClass {
  const { backendWaitScale = 1, readyWithinMs = 15_000, listeningWithinMs = 12_000, probeWithinMs = 10_000 } = options;

  return {
    name: "embedded",

    compile: (spec, dataPlane) => compileWorkload(spec, dataPlane),

    async start(deploymentId, dataPlane, attached, isKnown, runtime, signal) {
      return ending(signal, async () => {
        const volume = await runtime.volumePath(deploymentId, configVolume);
        if (volume === undefined) {
          return failed("UNSUPPORTED", "the runtime offers no path of the volume in which routes are kept", false);
        }
        const named = new Set(attached.map((routes) => routes.deploymentId));
        const stays = (id: string): boolean => named.has(id) || !isKnown(id); // D3
        await keepOnly(volume, stays);
        for (const routes of attached) await keepLastGood(volume, routes);

        const admin = await waitFor(readyWithinMs, signal, () => reachStatus(runtime, deploymentId, signal));
        if (admin === undefined) return notReady(deploymentId);
        const problem = await waitForListeners(admin.client, dataPlane, signal);
        if (problem !== undefined) return problem;
        await reconcile(admin.client, admin.status, attached, stays, signal);
        return succeeded;
      });
    },

    async apply(dataPlaneId, next, previous, runtime, report, signal) {
      return ending(signal, async () => {
        const tell = progress(report);
        tell(10, "looking at the backends");
        const unfit = await checkBackends(next.routes, backendWaitScale, signal);
        if (unfit !== undefined) return unfit;

        const volume = await runtime.volumePath(dataPlaneId, configVolume);
        const reached = await reachStatus(runtime, dataPlaneId, signal);
        if (reached === undefined || volume === undefined) return notReady(dataPlaneId);
        const { client, status } = reached;

        // An agent without its journal knows of none before; the volume does.
        const before = previous ?? (await readLastGood(volume, next.deploymentId));
        tell(60, "writing routes");
        let settled = false;
        try {
          const refused = await client.put(next, signal);
          if (refused !== undefined) {
            settled = true; // It took nothing over.
            return failed("ROUTES_REFUSED", [refused.path, refused.message].filter(Boolean).join(": "), false);
          }
          tell(80, "asking the data plane for the new generation");
          const unproven = await probeAll(dataPlaneId, next, status, runtime, signal);
          if (unproven !== undefined) return unproven;
          await keepLastGood(volume, next); // G1
          settled = true;
          tell(100, "served");
          return succeeded;
        } finally {
          if (!settled) await rollBack(client, next, before); // G2
        }
      });
    },

    async remove(dataPlaneId, deploymentId, _generation, runtime, signal) {
      return ending(signal, async () => {
        const volume = await runtime.volumePath(dataPlaneId, configVolume);
        if (volume !== undefined) await forgetLastGood(volume, deploymentId);
        try {
          const admin = await reachAdmin(runtime, dataPlaneId);
          await admin?.delete(deploymentId, signal);
        } catch (error) {
          // A process that is not there serves nothing, and finds no file when it starts.
          if ((error as NodeJS.ErrnoException).code !== "ECONNREFUSED") throw error;
        }
        return succeeded;
      });
    },
  };

  async function waitForListeners(
    client: AdminClient,
    dataPlane: DataPlane,
    signal: AbortSignal,
  ): Promise<ConvergeEnd | undefined> {
    let silent: DataPlaneStatus["listeners"] = [];
    const listening = await waitFor(listeningWithinMs, signal, async () => {
      const { listeners } = await client.status(signal);
      silent = dataPlane.listeners.map(
        ({ name }) => listeners.find((listener) => listener.name === name) ?? { ...unknownListener, name },
      );
      silent = silent.filter(({ state }) => state !== "LISTENING");
      return silent.length === 0 ? true : undefined;
    });
    if (listening === true) return undefined;
    const { name, problem, state } = silent[0]!;
    const message = `listener "${name}" does not listen: ${problem}`;
    return state === "PORT_TAKEN" ? failed("PORT_TAKEN", message, true) : failed("DATA_PLANE_NOT_READY", message, true);
  }

  async function probeAll(
    dataPlaneId: string,
    next: AttachedRoutes,
    status: DataPlaneStatus,
    runtime: Runtime,
    signal: AbortSignal,
  ): Promise<ConvergeEnd | undefined> {
    const names = status.listeners.map(({ name }) => name).filter((name) => name !== adminPortName);
    for (const name of names) {
      let last = "no answer";
      const proven = await waitFor(probeWithinMs, signal, async () => {
        const address = await runtime.upstream(dataPlaneId, workloadName, name);
        if (address === undefined) return void (last = "it has no address");
        try {
          const generation = await probe(address, next.deploymentId, signal);
          if (generation === next.generation) return true;
          last = generation === undefined ? "it does not know these routes" : `it answers generation ${generation}`;
        } catch (error) {
          last = (error as Error).message;
        }
        return undefined;
      });
      if (proven !== true) {
        const message = `listener "${name}" does not answer with generation ${next.generation}: ${last}`;
        return failed("PROBE_FAILED", message, true);
      }
    }
    return names.length > 0 ? undefined : failed("PROBE_FAILED", "the data plane has no listener to ask", false);
  }
}

/** The class as agents use it. */
export const embedded: DataPlaneClass = embeddedDataPlane();

const succeeded: ConvergeEnd = { kind: "succeeded" };
const unknownListener = { address: "", port: 0, state: "CLOSED", problem: "the data plane does not know it" } as const;

function failed(
  reason: (ConvergeEnd & { kind: "failed" })["reason"],
  message: string,
  worthRetry: boolean,
): ConvergeEnd {
  return { kind: "failed", reason, message, worthRetry };
}

function notReady(dataPlaneId: string): ConvergeEnd {
  return failed("DATA_PLANE_NOT_READY", `the data plane ${dataPlaneId} does not answer on its admin port`, true);
}

/** Cancellation, a full disk and a data plane that vanishes are endings; a defect is one too, and says so. */
async function ending(signal: AbortSignal, work: () => Promise<ConvergeEnd>): Promise<ConvergeEnd> {
  try {
    return await work();
  } catch (error) {
    if (signal.aborted) return { kind: "cancelled" };
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOSPC" || code === "EDQUOT") return failed("DISK_FULL", message, true);
    const gone = code?.startsWith("ECONN") === true || code === "EPIPE" || (error as Error).name === "TimeoutError";
    return gone ? failed("DATA_PLANE_NOT_READY", message, true) : failed("INTERNAL", message, true);
  }
}

/** Looks until there is something, at most `withinMs`. Throws when `signal` aborts. */
async function waitFor<T>(
  withinMs: number,
  signal: AbortSignal,
  look: () => Promise<T | undefined>,
): Promise<T | undefined> {
  const until = performance.now() + withinMs;
  for (;;) {
    const found = await look();
    if (found !== undefined || performance.now() >= until) return found;
    await sleep(lookAgainMs, undefined, { signal });
  }
}

/** Undefined: it does not answer (yet). */
async function reachStatus(
  runtime: Runtime,
  dataPlaneId: string,
  signal: AbortSignal,
): Promise<{ client: AdminClient; status: DataPlaneStatus } | undefined> {
  try {
    const client = await reachAdmin(runtime, dataPlaneId);
    return client === undefined ? undefined : { client, status: await client.status(signal) };
  } catch {
    signal.throwIfAborted();
    return undefined; // Not yet, or no longer.
  }
}

/**
 * Brings what the process serves to what the agent knows as good. Routes that
 * this version of the data plane refuses are left as they are: they fail alone.
 */
async function reconcile(
  client: AdminClient,
  status: DataPlaneStatus,
  attached: readonly AttachedRoutes[],
  stays: (deploymentId: string) => boolean,
  signal: AbortSignal,
): Promise<void> {
  const served = new Map(status.attached.map(({ deploymentId, generation }) => [deploymentId, generation]));
  for (const routes of attached) {
    if (served.get(routes.deploymentId) !== routes.generation) await client.put(routes, signal);
  }
  for (const deploymentId of served.keys()) if (!stays(deploymentId)) await client.delete(deploymentId, signal);
}

async function rollBack(
  client: AdminClient,
  next: AttachedRoutes,
  previous: AttachedRoutes | undefined,
): Promise<void> {
  const signal = AbortSignal.timeout(rollBackWithinMs);
  try {
    if (previous === undefined) await client.delete(next.deploymentId, signal);
    else await client.put(previous, signal);
  } catch {
    // The process is gone; it starts again with the files, which are untouched.
  }
}

function progress(report: (progress: ConvergeProgress) => void): (percent: number, message: string) => void {
  return (percent, message) => report({ phase: "APPLYING", percent, message, workloads: [] });
}
