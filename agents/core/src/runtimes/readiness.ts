/**
 * Whether an instance is what a converge waits for.
 */
import type { InstanceHealth } from "../runtime.ts";
import type { Workload } from "@bowline/contract/deployments";
import type { Readiness } from "./members.ts";
import { Refusal } from "./refusal.ts";
import { isJob } from "./workloads.ts";

/** How a run ended. */
export interface ReadableExit {
  code?: number;
  reason: string;
  /** A job that was ended at its deadline. */
  overdue?: boolean;
  /** It did not start at all. */
  refused?: { reason: Refusal["reason"]; worthRetry: boolean };
}

export interface Readable {
  definition: { index: number };
  workload: Workload;
  /** Whether something says that it is healthy. Unset: as the spec says. */
  checked?(): boolean;
  phase():
    | { kind: "idle" | "starting" | "paused" | "stopping" }
    | { kind: "running"; health: InstanceHealth; reason: string; settled: boolean }
    | { kind: "backing-off" | "exited"; exit: ReadableExit };
}

/**
 * A job is there when it has ended with 0; what has a health check when that
 * passes; everything else when it has run for a moment, or has ended with 0 and
 * is not to start again.
 */
export function readinessOf(instance: Readable, done: boolean, output: () => string): Readiness {
  const phase = instance.phase();
  switch (phase.kind) {
    case "idle":
    case "starting":
    case "paused":
    case "stopping":
      return { kind: "waiting" };
    case "running":
      if (isJob(instance.workload)) return { kind: "waiting" };
      if (!(instance.checked?.() ?? instance.workload.healthCheck !== undefined))
        return { kind: phase.settled ? "ready" : "waiting" };
      if (phase.health === "UNHEALTHY") return { kind: "failed", refusal: unhealthy(instance, phase.reason, output()) };
      return { kind: phase.health === "HEALTHY" ? "ready" : "waiting" };
    case "backing-off":
      return isJob(instance.workload)
        ? { kind: "waiting" }
        : { kind: "failed", refusal: endedEarly(instance, phase.exit, output()) };
    case "exited":
      return phase.exit.code === 0 && done
        ? { kind: "ready" }
        : { kind: "failed", refusal: endedEarly(instance, phase.exit, output()) };
    default:
      return phase satisfies never;
  }
}

/** The longest that a check's own words may be: an engine keeps 4 KiB of each try. */
const longestWhy = 500;

/** Why one that runs is not there yet, as `Held.whyNotYet` says it. `why`: what its check says so far, if anything. */
export function whyNotYet(instance: Readable, why: string, wrote: string): string {
  const phase = instance.phase();
  if (phase.kind !== "running") return "";
  const { index } = instance.definition;
  const which = index === 0 ? "" : `instance ${index} `;
  const what = isJob(instance.workload) ? "has not ended yet" : "is not healthy yet";
  const reason = (why || phase.reason).slice(0, longestWhy).replaceAll(/\s+/g, " ").trim();
  return `${which}${what}${reason === "" ? "" : `: ${reason}`}${said(wrote)}`;
}

function unhealthy(instance: Readable, reason: string, wrote: string): Refusal {
  return new Refusal("UNHEALTHY", `${named(instance)} runs, but is not healthy: ${reason}${said(wrote)}`, true);
}

function endedEarly(instance: Readable, exit: ReadableExit, wrote: string): Refusal {
  if (exit.refused !== undefined) return new Refusal(exit.refused.reason, exit.reason, exit.refused.worthRetry);
  const reason = exit.overdue === true ? "RUN_TIMEOUT" : "START_FAILED";
  // A job's result is final for this generation: the same spec gives the same answer.
  return new Refusal(reason, `${named(instance)} ${exit.reason}${said(wrote)}`, !isJob(instance.workload));
}

function named({ definition, workload }: Readable): string {
  return `workload ${workload.name}${definition.index === 0 ? "" : ` (instance ${definition.index})`}`;
}

function said(text: string): string {
  return text === "" ? "; it wrote nothing" : `; it wrote:\n${text}`;
}
