/**
 * Whether an instance is what a converge waits for, and what an observer sees.
 */
import type { InstancePhase, ObservedInstance } from "@bowline/agent-core";
import type { Instance } from "./instances.ts";
import type { Readiness } from "@bowline/agent-core/runtimes";
import type { Exit } from "./launch.ts";
import { excerpt } from "./logs.ts";
import type { Phase } from "./phases.ts";
import { readinessOf as sharedReadiness, whyNotYet as sharedWhy } from "@bowline/agent-core/runtimes";

/** Lines of output that a failure's message carries, and how long they may be together. */
const excerptLines = 20;
const excerptBytes = 2_000;

/** See the shared one; what has ended for good may have ended well. */
export function readinessOf(instance: Instance): Readiness {
  return sharedReadiness(instance, instance.state.done, () => wrote(instance));
}

/** See the shared one. */
export function whyNotYet(instance: Instance): Promise<string> {
  return Promise.resolve(sharedWhy(instance, "", wrote(instance)));
}

function wrote(instance: Instance): string {
  return excerpt(instance.log, instance.logStart(), excerptLines, excerptBytes);
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
