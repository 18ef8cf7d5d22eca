/**
 * Data planes and the routes that attach to them, at this agent.
 *
 *   converge.ts  decides when; this knows which data plane is ready and what attaches
 *
 * W1: routes are applied only while their data plane is ready; they wait for it
 *     within their own run timeout.
 * W2: a data plane is changed only while nothing is being applied to it or taken
 *     from it, and nothing is while it is changed.
 * W3: a change that fails brings back the last good generation, of a data plane
 *     as well as of routes.
 *
 * Long because W1 to W3 hold over one map of data planes that all of it shares.
 */
import { Deployment_Desired, type Deployment, type Routes } from "@bowline/contract/deployments";
import type { Clock } from "@bowline/kernel";
import type { AttachedRoutes, DataPlaneClass } from "./dataplane.ts";
import type { GoodGeneration, Journal } from "./journal.ts";
import type { Log } from "./log.ts";
import type { ConvergeEnd, ConvergeProgress, Runtime } from "./runtime.ts";
import { readSpec } from "./specs.ts";

export interface Gateways {
  /** Makes a data plane's spec true: its workload by the runtime, then its class on top. */
  convergeDataPlane(spec: Deployment, report: Report, signal: AbortSignal): Promise<ConvergeEnd>;
  /** Makes a routes spec true, once its data plane is ready (W1). */
  convergeRoutes(spec: Deployment, report: Report, signal: AbortSignal): Promise<ConvergeEnd>;
  /** After a restart of the agent: attaches to a data plane that runs. */
  adopt(good: GoodGeneration, signal: AbortSignal): Promise<ConvergeEnd>;
  /** What this deployment is or was at this agent; the spec of a removal need not say it. */
  kindOf(spec: Deployment): "data-plane" | "routes" | "plain";
}

/** Why an attempt was aborted: `signal.reason` of its signal. `stopping`: the agent ends, and the next start goes on. */
export type AbortReason = "cancelled" | "timeout" | "stopping";

export function whyAborted(signal: AbortSignal): AbortReason | undefined {
  return signal.aborted ? (signal.reason as AbortReason) : undefined;
}

type Report = (progress: ConvergeProgress) => void;

/**
 * A data plane here. `ready`: the class that has answered for it. `changing`: it is being converged.
 * `applying`: routes being applied to it or taken from it now.
 * `problem`: why its last attempt failed; routes that wait fail with it instead of waiting out their time.
 */
type Place = {
  ready: DataPlaneClass | undefined;
  changing: boolean;
  applying: number;
  problem: string | undefined;
  waiting: Set<() => void>;
};

/** Bringing back what served before outlives the attempt's own time, so that a failed attempt leaves it serving. */
const bringBackWithinMs = 30_000;

const succeeded: ConvergeEnd = { kind: "succeeded" };

export function createGateways(ports: {
  runtime: Runtime;
  dataPlanes: readonly DataPlaneClass[];
  journal: Journal;
  log: Log;
  clock: Clock;
  openSecret: (sealed: string) => Promise<Uint8Array>;
}): Gateways {
  const { runtime, journal, log } = ports;
  const classes = new Map(ports.dataPlanes.map((dataPlane) => [dataPlane.name, dataPlane]));
  const places = new Map<string, Place>();
  /** What was applied (undefined: taken out) in this process: ahead of the journal until the result is in it. */
  const applied = new Map<string, AttachedRoutes | undefined>();

  return {
    kindOf(spec) {
      const good = goodSpec(spec.id);
      if (spec.dataPlane !== undefined || good?.dataPlane !== undefined) return "data-plane";
      return spec.routes !== undefined || good?.routes !== undefined ? "routes" : "plain";
    },

    async convergeDataPlane(spec, report, signal) {
      const place = placeOf(spec.id);
      const wasReady = place.ready;
      const before = goodSpec(spec.id);
      place.ready = undefined;
      place.problem = undefined;
      place.changing = true;
      let ready: DataPlaneClass | undefined;
      try {
        await until(place, () => place.applying === 0, signal); // W2
        if (signal.aborted) {
          ready = wasReady;
          return { kind: "cancelled" };
        }
        const end = await change(spec, report, signal).catch(asFailure);
        if (spec.desired !== Deployment_Desired.RUNNING) return end;
        if (end.kind === "failed") place.problem = `${end.reason}: ${end.message}`;
        if (end.kind === "succeeded") ready = classOf(spec);
        else if (before?.desired === Deployment_Desired.RUNNING && whyAborted(signal) !== "stopping") {
          ready = await bringBack(before); // W3
        }
        return end;
      } finally {
        place.changing = false;
        setReady(place, ready);
      }
    },

    async convergeRoutes(spec, report, signal) {
      const before = goodSpec(spec.id);
      if (spec.desired !== Deployment_Desired.RUNNING) {
        const routes = spec.routes ?? before?.routes;
        if (routes === undefined) return succeeded; // Never served here.
        const end = await detach(routes, spec, signal);
        if (end.kind === "succeeded") applied.set(spec.id, undefined);
        return end;
      }
      const routes = spec.routes;
      if (routes === undefined) return failed("SPEC_INVALID", "the spec of routes has none");
      // Before the data plane is looked for: nothing may come between that and `applying` (W2).
      const secrets = named(spec) ? await openAll(spec) : {};
      if (secrets === undefined) return unopened(spec);
      const previous = before === undefined ? undefined : servedBy(before, named(before) ? await openAll(before) : {});
      const dataPlaneId = routes.dataPlaneDeploymentId;
      const place = placeOf(dataPlaneId);
      if (place.ready === undefined)
        report({ phase: "WAITING", percent: 0, message: `waits for the data plane ${dataPlaneId}`, workloads: [] });
      const settled = (): boolean => place.ready !== undefined || place.problem !== undefined;
      while (!settled() && !signal.aborted) await until(place, settled, signal); // Another change may begin as one ends.
      const found = place.ready;
      if (found === undefined) {
        const why = whyAborted(signal);
        return why === undefined || why === "timeout" ? notReady(dataPlaneId, place.problem) : { kind: "cancelled" };
      }
      place.applying += 1;
      try {
        const next = { deploymentId: spec.id, generation: spec.generation, routes, secrets };
        const moved = previous !== undefined && previous.routes.dataPlaneDeploymentId !== dataPlaneId;
        const end = await found.apply(dataPlaneId, next, moved ? undefined : previous, runtime, report, signal);
        if (end.kind === "succeeded") applied.set(spec.id, next);
        if (end.kind === "succeeded" && moved) await detach(previous.routes, spec, signal);
        return end;
      } finally {
        place.applying -= 1;
        wake(place);
      }
    },

    async adopt(good, signal) {
      const read = readSpec(good.spec, good);
      if (!read.ok) return failed(read.reason, read.message);
      const { spec } = read;
      const place = placeOf(spec.id);
      if (spec.dataPlane === undefined || spec.desired !== Deployment_Desired.RUNNING) return succeeded;
      const found = classOf(spec);
      if (found === undefined) return unsupported(spec);
      const end = await found.start(spec.id, spec.dataPlane, await attachedTo(spec.id), isKnown, runtime, signal);
      if (end.kind === "succeeded") setReady(place, found);
      return end;
    },
  };

  async function change(spec: Deployment, report: Report, signal: AbortSignal): Promise<ConvergeEnd> {
    const { dataPlane } = spec;
    if (spec.desired === Deployment_Desired.ABSENT || dataPlane === undefined) {
      return await runtime.converge(spec, report, signal);
    }
    const found = classOf(spec);
    if (found === undefined) return unsupported(spec);
    const end = await runtime.converge(found.compile(spec, dataPlane, runtime), report, signal);
    if (end.kind !== "succeeded" || spec.desired !== Deployment_Desired.RUNNING) return end;
    return await found.start(spec.id, dataPlane, await attachedTo(spec.id), isKnown, runtime, signal);
  }

  async function bringBack(before: Deployment): Promise<DataPlaneClass | undefined> {
    const end = await change(before, () => {}, AbortSignal.timeout(bringBackWithinMs)).catch(asFailure);
    if (end.kind === "failed") {
      const { reason, message } = end;
      log.error(
        { deployment: before.id, generation: before.generation, reason, detail: message },
        "the last good data plane could not be brought back",
      );
    }
    return end.kind === "succeeded" ? classOf(before) : undefined;
  }

  async function detach(routes: Routes, spec: Deployment, signal: AbortSignal): Promise<ConvergeEnd> {
    const dataPlaneId = routes.dataPlaneDeploymentId;
    const place = placeOf(dataPlaneId);
    await until(place, () => !place.changing, signal); // W2
    if (signal.aborted) return { kind: "cancelled" };
    const found = place.ready ?? classOf(goodSpec(dataPlaneId));
    if (found === undefined) return succeeded; // No data plane, nothing that serves them.
    place.applying += 1;
    try {
      return await found.remove(dataPlaneId, spec.id, spec.generation, runtime, signal);
    } finally {
      place.applying -= 1;
      wake(place);
    }
  }

  /** What is under way may have served before this journal began; it ends by itself. */
  function isKnown(deploymentId: string): boolean {
    const underWay = journal.inFlight().some((command) => command.deploymentId === deploymentId);
    return !underWay && journal.highest(deploymentId) !== undefined;
  }

  /** The last good generation of everything that attaches to a data plane, oldest first. */
  async function attachedTo(dataPlaneId: string): Promise<AttachedRoutes[]> {
    const attached = new Map<string, AttachedRoutes | undefined>();
    for (const good of journal.good().toSorted((a, b) => a.sinceMs - b.sinceMs)) {
      const read = readSpec(good.spec, good);
      attached.set(good.deploymentId, read.ok ? servedBy(read.spec, await openAll(read.spec)) : undefined);
    }
    for (const [deploymentId, routes] of applied) attached.set(deploymentId, routes);
    return [...attached.values()].filter(
      (one) => one?.routes.dataPlaneDeploymentId === dataPlaneId,
    ) as AttachedRoutes[];
  }

  /** Values by name, in memory only. Undefined, and logged without it: one is missing or sealed to another key. */
  async function openAll(spec: Deployment): Promise<Record<string, string> | undefined> {
    const opened: Record<string, string> = {};
    for (const name of Object.keys(spec.secretVersions)) {
      try {
        const value = new TextDecoder().decode(await ports.openSecret(spec.sealedSecrets[name] ?? ""));
        if (!headerValue.test(value)) throw new Error("it is no header's value"); // the control plane refuses it before
        opened[name] = value;
      } catch {
        log.error({ deployment: spec.id, generation: spec.generation, secret: name }, "a secret cannot be used");
        return undefined;
      }
    }
    return opened;
  }

  function goodSpec(deploymentId: string): Deployment | undefined {
    const good = journal.goodOf(deploymentId);
    const read = good === undefined ? undefined : readSpec(good.spec, good);
    return read?.ok === true ? read.spec : undefined;
  }

  function classOf(spec: Deployment | undefined): DataPlaneClass | undefined {
    return spec?.dataPlane === undefined ? undefined : classes.get(spec.dataPlane.gatewayClass);
  }

  function placeOf(dataPlaneId: string): Place {
    let place = places.get(dataPlaneId);
    if (place === undefined)
      places.set(
        dataPlaneId,
        (place = { ready: undefined, changing: false, applying: 0, problem: undefined, waiting: new Set() }),
      );
    return place;
  }

  function notReady(dataPlaneId: string, problem?: string): ConvergeEnd {
    const message =
      problem === undefined
        ? `the data plane ${dataPlaneId} was not there in time`
        : `the data plane failed: ${problem}`;
    return { kind: "failed", reason: "DATA_PLANE_NOT_READY", message, worthRetry: true };
  }
}

/** Undefined: it serves nothing, or a secret of it cannot be opened (any more). */
function servedBy(spec: Deployment, secrets: Record<string, string> | undefined): AttachedRoutes | undefined {
  if (spec.routes === undefined || spec.desired !== Deployment_Desired.RUNNING || secrets === undefined)
    return undefined;
  return { deploymentId: spec.id, generation: spec.generation, routes: spec.routes, secrets };
}

/** What backends are sent: no value begins another header. */
const headerValue = /^[\t\x20-\x7e]*$/;

/** Whether it names secrets. */
function named(spec: Deployment): boolean {
  return Object.keys(spec.secretVersions).length > 0;
}

function unopened(spec: Deployment): ConvergeEnd {
  return failed(
    "SPEC_INVALID",
    `a secret of ${spec.id} cannot be opened with this agent's key, or is no header; publish again`,
  );
}

function unsupported(spec: Deployment): ConvergeEnd {
  return failed("UNSUPPORTED", `this agent has no gateway class ${JSON.stringify(spec.dataPlane?.gatewayClass)}`);
}

function failed(reason: "SPEC_INVALID" | "UNSUPPORTED", message: string): ConvergeEnd {
  return { kind: "failed", reason, message, worthRetry: false };
}

/** What a runtime or a class throws is a defect of it; the place must not stay unready for it. */
function asFailure(error: unknown): ConvergeEnd {
  const message = error instanceof Error ? error.message : String(error);
  return { kind: "failed", reason: "INTERNAL", message, worthRetry: true };
}

function setReady(place: Place, ready: DataPlaneClass | undefined): void {
  place.ready = ready;
  wake(place);
}

function wake(place: Place): void {
  for (const look of place.waiting) look();
}

/** Resolves when `holds` does, or when `signal` aborts. */
function until(place: Place, holds: () => boolean, signal: AbortSignal): Promise<void> {
  if (holds() || signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const look = (): void => {
      if (!holds() && !signal.aborted) return;
      place.waiting.delete(look);
      signal.removeEventListener("abort", look);
      resolve();
    };
    place.waiting.add(look);
    signal.addEventListener("abort", look);
  });
}
