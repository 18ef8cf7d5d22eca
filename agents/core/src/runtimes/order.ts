/**
 * In which order the workloads of a deployment start and stop.
 */
import { Dependency_Condition, RestartPolicy } from "@bowline/contract/deployments";
import type { Deployment } from "@bowline/contract/deployments";
import { invalid, Refusal } from "./refusal.ts";
import { instanceCount, isJob } from "./workloads.ts";

/**
 * Names in levels: each depends on earlier levels only. Throws SPEC_INVALID for
 * a circle or an unknown name, DEPENDENCY_FAILED for a condition that can't
 * ever hold.
 */
export function levelsOf(spec: Deployment): string[][] {
  const byName = new Map(spec.workloads.map((workload) => [workload.name, workload]));
  for (const workload of spec.workloads) {
    for (const dependency of workload.dependsOn) {
      const other = byName.get(dependency.workload);
      if (other === undefined) {
        throw invalid(`workload ${workload.name} depends on ${dependency.workload}, which the spec does not have`);
      }
      const endless =
        !isJob(other) &&
        other.restartPolicy !== RestartPolicy.NEVER &&
        other.restartPolicy !== RestartPolicy.ON_FAILURE;
      const never = instanceCount(other) === 0 || (dependency.condition === Dependency_Condition.COMPLETED && endless);
      if (never && instanceCount(workload) > 0) {
        const why = instanceCount(other) === 0 ? "has no instance" : "is always started again";
        throw new Refusal(
          "DEPENDENCY_FAILED",
          `workload ${workload.name} waits for ${other.name}, which ${why}`,
          false,
        );
      }
    }
  }
  const levels: string[][] = [];
  const placed = new Set<string>();
  while (placed.size < byName.size) {
    const level = spec.workloads
      .filter(({ name, dependsOn }) => !placed.has(name) && dependsOn.every(({ workload }) => placed.has(workload)))
      .map(({ name }) => name);
    if (level.length === 0) {
      const circle = [...byName.keys()].filter((name) => !placed.has(name));
      throw invalid(`workloads ${circle.join(", ")} wait for each other`);
    }
    for (const name of level) placed.add(name);
    levels.push(level);
  }
  return levels;
}
