/** Processes that carry this runtime's marks, but belong to no deployment that it knows. */
import type { ObservedDeployment } from "@bowline/agent-core";
import { markedProcesses } from "./processes.ts";
import type { HeldDeployment } from "./deployments.ts";

/**
 * Processes with this runtime's marker whose deployment it doesn't hold: their
 * record is lost. They are shown, and left alone until an ABSENT spec names them.
 */
export function observeStrays(runtimeId: string, held: ReadonlyMap<string, HeldDeployment>): ObservedDeployment[] {
  const strays = new Map<string, ObservedDeployment & { instances: ObservedDeployment["instances"][number][] }>();
  for (const { instance, pid, session, probe } of markedProcesses(runtimeId)) {
    const [deploymentId = "", workload = "", index = "0", generation = "0"] = instance.split("/");
    if (held.has(deploymentId) || pid !== session || probe) continue;
    const stray = strays.get(deploymentId) ?? {
      deploymentId,
      generation: Number(generation),
      instances: [],
      absent: false,
    };
    stray.instances.push({
      workload,
      index: Number(index),
      phase: "RUNNING",
      health: "UNKNOWN",
      restarts: 0,
      image: "",
      ports: [],
      reason: `stray: process ${pid} carries this runtime's marker, but no record of its deployment is left`,
    });
    strays.set(deploymentId, stray);
  }
  return [...strays.values()];
}
