/**
 * Whether an instance is what a converge waits for, and what an observer sees.
 */
import type { InstancePhase, ObservedInstance } from "@bowline/agent-core";
import type { Instance } from "./instances.ts";
import type { Readiness } from "@bowline/agent-core/runtimes";
import type { Exit } from "./launch.ts";
import { excerpt } from "./logs.ts";
import type { Phase } from "./phases.ts";
import { Refusal, isJob } from "@bowline/agent-core/runtimes";

/** Lines of output that a failure's message carries, and how long they may be together. */
const excerptLines = 20;
const excerptBytes = 2_000;

/**
 * A job is there when it has ended with 0; what has a health check when that
 * passes; everything else when it has run for a moment, or has ended with 0 and
 * is not to start again.
 */
export function readinessOf(instance: Instance): Readiness {
  const phase = instance.phase();
  switch (phase.kind) {
    case "idle":
    case "starting":
    case "paused":
    case "stopping":
      return { kind: "waiting" };
    case "running":
      if (isJob(instance.workload)) return { kind: "waiting" };
      if (instance.workload.healthCheck === undefined) return { kind: phase.settled ? "ready" : "waiting" };
      if (phase.health === "UNHEALTHY") return { kind: "failed", refusal: unhealthy(instance, phase.reason) };
      return { kind: phase.health === "HEALTHY" ? "ready" : "waiting" };
    case "backing-off":
      return isJob(instance.workload)
        ? { kind: "waiting" }
        : { kind: "failed", refusal: endedEarly(instance, phase.exit) };
    case "exited":
      return phase.exit.code === 0 && instance.state.done
        ? { kind: "ready" }
        : { kind: "failed", refusal: endedEarly(instance, phase.exit) };
    default:
      return phase satisfies never;
  }
}

function unhealthy(instance: Instance, reason: string): Refusal {
  return new Refusal("UNHEALTHY", `${named(instance)} runs, but is not healthy: ${reason}${output(instance)}`, true);
}

function endedEarly(instance: Instance, exit: Exit): Refusal {
  if (exit.refused !== undefined) return new Refusal(exit.refused.reason, exit.reason, exit.refused.worthRetry);
  const reason = exit.overdue === true ? "RUN_TIMEOUT" : "START_FAILED";
  // A job's result is final for this generation: the same spec gives the same answer.
  return new Refusal(reason, `${named(instance)} ${exit.reason}${output(instance)}`, !isJob(instance.workload));
}

function named({ definition, workload }: Instance): string {
  return `workload ${workload.name}${definition.index === 0 ? "" : ` (instance ${definition.index})`}`;
}

function output(instance: Instance): string {
  const text = excerpt(instance.log, instance.logStart(), excerptLines, excerptBytes);
  return text === "" ? "; it wrote nothing" : `; it wrote:\n${text}`;
}

export function observeInstance(instance: Instance): ObservedInstance {
  const { definition, workload, state } = instance;
  const phase = instance.phase();
  const running = "live" in phase ? phase.live.record : undefined;
  return {
    workload: workload.name,
    index: definition.index,
    phase: phaseNames[phase.kind],
    health: phase.kind === "running" ? phase.health : "UNKNOWN",
    restarts: state.restarts,
    ...(state.exit?.code === undefined ? {} : { exitCode: state.exit.code }),
    image: workload.image,
    ports: definition.ports.map(({ name, container, address, published }) => ({ name, container, address, published })),
    reason: reasonOf(phase, state.exit),
    ...(running === undefined ? {} : { startedAt: new Date(running.startedAt) }),
  };
}

const phaseNames = {
  idle: "STOPPED",
  starting: "STARTING",
  running: "RUNNING",
  paused: "PAUSED",
  stopping: "STOPPING",
  "backing-off": "BACKING_OFF",
  exited: "EXITED",
} as const satisfies Record<Phase["kind"], InstancePhase>;

function reasonOf(phase: Phase, last: Exit | undefined): string {
  if (phase.kind === "running") return phase.reason;
  if (phase.kind === "idle") return last?.reason ?? "";
  return phase.kind === "backing-off" || phase.kind === "exited" ? phase.exit.reason : "";
}
