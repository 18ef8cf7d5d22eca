/**
 * Carries out what was journalled: one command at a time per deployment,
 * through the runtime and the data planes, to one journalled result.
 *
 * V1: per deployment in the order of arrival; the next one starts when the one
 *     before has its result on the disk (E7).
 * V2: a start is counted before it happens; the third start of one attempt is
 *     reported AGENT_CRASHED instead of run.
 * V3: run timeouts are measured on this machine's monotonic clock.
 * V4: what is cancelled before it started ends CANCELLED and has done nothing.
 */
import { create, fromBinary } from "@bufbuild/protobuf";
import {
  type DeploymentState,
  DeploymentStateSchema,
  type DeployResult,
  DeployResult_Outcome,
  DeployResultSchema,
} from "@bowline/contract/agent";
import { type Deployment, Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import type { Clock } from "@bowline/kernel";
import { type AttachedRoutes, type DataPlaneClass } from "./dataplane.ts";
import type { Journal, JournalledCommand } from "./journal.ts";
import { deploymentStateOf } from "./observed.ts";
import type { ConvergeEnd, ConvergeProgress, FailureReason, Runtime } from "./runtime.ts";

export interface ConvergePorts {
  journal: Journal;
  runtime: Runtime;
  dataPlanes: readonly DataPlaneClass[];
  clock: Clock;
  log: {
    info(fields: object, message: string): void;
    warn(fields: object, message: string): void;
    error(fields: object, message: string): void;
  };
  /** The newest progress of a command. */
  progress(command: JournalledCommand, progress: ConvergeProgress): void;
  /** A result that is on the disk. */
  result(result: DeployResult): void;
}

export interface Converger {
  /** Runs a journalled command, behind what its deployment has under way. Taking one twice is taking it once. */
  take(command: JournalledCommand): void;
  /** Ends a command, running or waiting. */
  cancel(commandId: string): void;
  /** Attaches again to the data planes that ran before this process started. */
  restore(signal: AbortSignal): Promise<void>;
  /** Commands that are taken and have no result. */
  count(): number;
  /** Ends everything under way without results: the agent stops, the journal knows. Resolves when nothing runs. */
  stop(): Promise<void>;
}

/** Starts of one attempt: a crash may be chance twice. */
const startLimit = 3;
/** How long routes wait for a data plane that this agent has not heard of, within their run timeout. */
const unknownDataPlaneMs = 60_000;
/** Attaching to a data plane that comes up at the same time as the agent. */
const restoreTries = 10;
const restoreEveryMs = 1_000;

type DataPlaneState = { kind: "starting" } | { kind: "ready" } | { kind: "failed"; message: string };

interface Taken {
  command: JournalledCommand;
  abort: AbortController;
  why: "cancelled" | "timeout" | "stopped" | undefined;
}

export function createConverger(ports: ConvergePorts): Converger {
  const { journal, runtime, clock, log } = ports;
  const taken = new Map<string, Taken>();
  const tails = new Map<string, Promise<void>>();
  const dataPlanes = new Map<string, DataPlaneState>();
  const dataPlaneWaiters = new Set<() => void>();
  let stopping = false;

  function setDataPlane(deploymentId: string, state: DataPlaneState): void {
    dataPlanes.set(deploymentId, state);
    for (const wake of dataPlaneWaiters) wake();
  }

  async function run(one: Taken): Promise<void> {
    const { command, abort } = one;
    if (stopping) return;
    if (abort.signal.aborted) return finish(one, { kind: "cancelled" }, undefined); // V4
    const starts = await journal.start(command.commandId); // V2
    if (starts >= startLimit)
      return finish(
        one,
        failed("AGENT_CRASHED", `the agent ended ${starts - 1} times while it ran this attempt`),
        undefined,
      );
    const timer = setTimeout(() => {
      one.why ??= "timeout";
      abort.abort();
    }, command.runTimeoutMs);
    const startedAt = clock.monotonicMs();
    let spec: Deployment | undefined;
    let end: ConvergeEnd;
    try {
      spec = fromBinary(DeploymentSchema, command.spec);
      end = await carryOut(command, spec, abort.signal);
    } catch (error) {
      log.error({ error, command: command.commandId }, "a converge ended with a defect");
      end = failed("INTERNAL", error instanceof Error ? error.message : String(error));
    } finally {
      clearTimeout(timer);
    }
    if (one.why === "stopped") return; // the journal knows; the next process goes on
    if (one.why === "timeout" && end.kind !== "succeeded") {
      const beyond = end.kind === "failed" ? `: ${end.message}` : "";
      end = failed("RUN_TIMEOUT", `not converged within ${command.runTimeoutMs / 1000} s${beyond}`);
    }
    await finish(one, end, spec, clock.monotonicMs() - startedAt);
  }

  async function carryOut(command: JournalledCommand, spec: Deployment, signal: AbortSignal): Promise<ConvergeEnd> {
    const report = (progress: ConvergeProgress): void => ports.progress(command, progress);
    const highest = journal.highest(command.deploymentId);
    if (highest !== undefined && highest.generation > command.generation) {
      return {
        ...failed("SPEC_INVALID", `generation ${highest.generation} is known here; ${command.generation} is older`),
        worthRetry: false,
      };
    }
    if (spec.dataPlane !== undefined) return carryOutDataPlane(spec, spec.dataPlane, report, signal);
    if (spec.routes !== undefined) return carryOutRoutes(spec, spec.routes, report, signal);
    return runtime.converge(spec, report, signal);
  }

  async function carryOutDataPlane(
    spec: Deployment,
    dataPlane: NonNullable<Deployment["dataPlane"]>,
    report: (progress: ConvergeProgress) => void,
    signal: AbortSignal,
  ): Promise<ConvergeEnd> {
    const dataPlaneClass = classOf(dataPlane.gatewayClass);
    if (dataPlaneClass === undefined) return unsupported(dataPlane.gatewayClass);
    const served = dataPlanes.get(spec.id)?.kind === "ready";
    if (!served) setDataPlane(spec.id, { kind: "starting" });
    const end = await runtime.converge(dataPlaneClass.compile(spec, dataPlane, runtime), report, signal);
    const started =
      end.kind === "succeeded" && spec.desired === Deployment_Desired.RUNNING
        ? await dataPlaneClass.start(spec.id, dataPlane, attachedTo(spec.id), runtime, signal)
        : end;
    if (started.kind === "succeeded")
      setDataPlane(spec.id, { kind: spec.desired === Deployment_Desired.RUNNING ? "ready" : "starting" });
    else if (!served)
      setDataPlane(spec.id, {
        kind: "failed",
        message: started.kind === "failed" ? `${started.reason}: ${started.message}` : "cancelled",
      });
    return started;
  }

  async function carryOutRoutes(
    spec: Deployment,
    routes: NonNullable<Deployment["routes"]>,
    report: (progress: ConvergeProgress) => void,
    signal: AbortSignal,
  ): Promise<ConvergeEnd> {
    const dataPlaneId = routes.dataPlaneDeploymentId;
    const next: AttachedRoutes = { deploymentId: spec.id, generation: spec.generation, routes };
    if (spec.desired !== Deployment_Desired.RUNNING) {
      const dataPlaneClass = classAt(dataPlaneId);
      // No data plane: nothing is served, so nothing is left to take out.
      if (dataPlaneClass === undefined || dataPlanes.get(dataPlaneId)?.kind !== "ready") return { kind: "succeeded" };
      return dataPlaneClass.remove(dataPlaneId, spec.id, spec.generation, runtime, signal);
    }
    report({ phase: "WAITING", percent: 0, message: "waits for its data plane", workloads: [] });
    const waited = await untilReady(dataPlaneId, signal);
    if (waited !== undefined) return waited;
    const dataPlaneClass = classAt(dataPlaneId);
    if (dataPlaneClass === undefined) return failed("DATA_PLANE_NOT_READY", "the data plane is not known here");
    return dataPlaneClass.apply(dataPlaneId, next, attachedOf(spec.id), runtime, report, signal);
  }

  /** Undefined when it is ready; else how the routes' converge ends. */
  async function untilReady(dataPlaneId: string, signal: AbortSignal): Promise<ConvergeEnd | undefined> {
    const until = clock.monotonicMs() + unknownDataPlaneMs;
    for (;;) {
      const state = dataPlanes.get(dataPlaneId);
      if (state?.kind === "ready") return undefined;
      if (state?.kind === "failed") return failed("DATA_PLANE_NOT_READY", `the data plane failed: ${state.message}`);
      if (signal.aborted) return { kind: "cancelled" };
      const leftMs = until - clock.monotonicMs();
      if (state === undefined && leftMs <= 0)
        return failed("DATA_PLANE_NOT_READY", "the data plane's command has not come");
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          clearTimeout(timer);
          dataPlaneWaiters.delete(wake);
          signal.removeEventListener("abort", wake);
          resolve();
        };
        const timer = setTimeout(
          wake,
          Math.max(1, Math.min(leftMs > 0 ? leftMs : unknownDataPlaneMs, unknownDataPlaneMs)),
        );
        dataPlaneWaiters.add(wake);
        signal.addEventListener("abort", wake, { once: true });
      });
    }
  }

  async function finish(one: Taken, end: ConvergeEnd, spec: Deployment | undefined, ranMs = 0): Promise<void> {
    const { command } = one;
    const result = create(DeployResultSchema, {
      commandId: command.commandId,
      attempt: command.attempt,
      outcome: outcomeOf(end),
      durationMs: Math.round(ranMs),
      productPublishId: command.productPublishId,
      state: await observe(command, spec, end),
      ...(end.kind === "failed" ? { reason: end.reason, message: end.message, worthRetry: end.worthRetry } : {}),
    });
    const converged = end.kind === "succeeded";
    const absent = spec?.desired === Deployment_Desired.ABSENT;
    if (converged && absent) dataPlanes.delete(command.deploymentId);
    await journal.finish(
      result,
      !converged
        ? {}
        : absent
          ? { removed: command.deploymentId }
          : {
              good: {
                deploymentId: command.deploymentId,
                generation: command.generation,
                digest: command.digest,
                spec: command.spec,
                sinceMs: journal.goodOf(command.deploymentId)?.sinceMs ?? clock.now(),
              },
            },
    );
    taken.delete(command.commandId);
    log.info(
      {
        command: command.commandId,
        deployment: command.deploymentId,
        generation: command.generation,
        end: end.kind,
        ...(end.kind === "failed" ? { reason: end.reason, detail: end.message } : {}),
      },
      "converge ended",
    );
    ports.result(result);
  }

  async function observe(
    command: JournalledCommand,
    spec: Deployment | undefined,
    end: ConvergeEnd,
  ): Promise<DeploymentState> {
    const { deploymentId } = command;
    if (spec?.routes !== undefined) {
      const absent = spec.desired === Deployment_Desired.ABSENT && end.kind === "succeeded";
      const generation =
        end.kind === "succeeded" ? command.generation : (journal.goodOf(deploymentId)?.generation ?? 0);
      return create(DeploymentStateSchema, { deploymentId, generation, absent });
    }
    try {
      const observed = (await runtime.list()).find((deployment) => deployment.deploymentId === deploymentId);
      if (observed !== undefined) return deploymentStateOf(observed);
    } catch (error) {
      log.warn({ error, deployment: deploymentId }, "the runtime could not be observed");
    }
    return create(DeploymentStateSchema, {
      deploymentId,
      generation: command.generation,
      absent: spec?.desired === Deployment_Desired.ABSENT,
    });
  }

  function classOf(name: string): DataPlaneClass | undefined {
    return ports.dataPlanes.find((dataPlaneClass) => dataPlaneClass.name === name);
  }

  /** The class of a data plane that converged here or is doing so now. */
  function classAt(deploymentId: string): DataPlaneClass | undefined {
    const good = journal.goodOf(deploymentId);
    const running = [...taken.values()].find((one) => one.command.deploymentId === deploymentId);
    const spec = good?.spec ?? running?.command.spec;
    return spec === undefined ? undefined : classOf(fromBinary(DeploymentSchema, spec).dataPlane?.gatewayClass ?? "");
  }

  function attachedOf(deploymentId: string): AttachedRoutes | undefined {
    const good = journal.goodOf(deploymentId);
    if (good === undefined) return undefined;
    const { routes } = fromBinary(DeploymentSchema, good.spec);
    return routes === undefined ? undefined : { deploymentId, generation: good.generation, routes };
  }

  /** Last good routes of a data plane, oldest attachment first. */
  function attachedTo(dataPlaneId: string): AttachedRoutes[] {
    return [...journal.good()]
      .toSorted((a, b) => a.sinceMs - b.sinceMs)
      .flatMap((good) => attachedOf(good.deploymentId) ?? [])
      .filter((attached) => attached.routes.dataPlaneDeploymentId === dataPlaneId);
  }

  return {
    take(command) {
      if (stopping || taken.has(command.commandId)) return;
      const one: Taken = { command, abort: new AbortController(), why: undefined };
      taken.set(command.commandId, one);
      const before = tails.get(command.deploymentId) ?? Promise.resolve();
      const tail = before
        .then(() => run(one))
        .catch((error: unknown) => {
          // The disk: without a journal there is no result. The server asks again, and the next start may find room.
          taken.delete(command.commandId);
          log.error({ error, command: command.commandId }, "a command could not be journalled");
        });
      tails.set(command.deploymentId, tail);
      void tail.then(() => {
        if (tails.get(command.deploymentId) === tail) tails.delete(command.deploymentId);
      });
    },
    cancel(commandId) {
      const one = taken.get(commandId);
      if (one === undefined) return;
      one.why ??= "cancelled";
      one.abort.abort();
    },
    async restore(signal) {
      await Promise.all(
        journal.good().map(async (good) => {
          const { dataPlane } = fromBinary(DeploymentSchema, good.spec);
          const dataPlaneClass = dataPlane === undefined ? undefined : classOf(dataPlane.gatewayClass);
          if (dataPlane === undefined || dataPlaneClass === undefined) return;
          setDataPlane(good.deploymentId, { kind: "starting" });
          for (let attempt = 1; !signal.aborted; attempt += 1) {
            const end = await dataPlaneClass.start(
              good.deploymentId,
              dataPlane,
              attachedTo(good.deploymentId),
              runtime,
              signal,
            );
            if (end.kind === "succeeded") return setDataPlane(good.deploymentId, { kind: "ready" });
            const message = end.kind === "failed" ? `${end.reason}: ${end.message}` : "cancelled";
            if (attempt >= restoreTries) return setDataPlane(good.deploymentId, { kind: "failed", message });
            await clock.sleep(restoreEveryMs, signal);
          }
        }),
      );
    },
    count: () => taken.size,
    async stop() {
      stopping = true;
      for (const one of taken.values()) {
        one.why ??= "stopped";
        one.abort.abort();
      }
      await Promise.all(tails.values());
    },
  };
}

function outcomeOf(end: ConvergeEnd): DeployResult_Outcome {
  switch (end.kind) {
    case "succeeded":
      return DeployResult_Outcome.SUCCEEDED;
    case "cancelled":
      return DeployResult_Outcome.CANCELLED;
    case "failed":
      return DeployResult_Outcome.FAILED;
    default:
      return end satisfies never;
  }
}

function failed(reason: FailureReason, message: string): Extract<ConvergeEnd, { kind: "failed" }> {
  return { kind: "failed", reason, message, worthRetry: true };
}

function unsupported(gatewayClass: string): ConvergeEnd {
  return { ...failed("UNSUPPORTED", `this agent has no gateway class ${gatewayClass}`), worthRetry: false };
}
