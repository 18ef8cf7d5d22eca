/** What a runtime observes, as it goes up the stream. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type DeploymentState, DeploymentStateSchema, InstanceStateSchema } from "@bowline/contract/agent";
import type { ObservedDeployment } from "./runtime.ts";

export function deploymentStateOf(observed: ObservedDeployment): DeploymentState {
  return create(DeploymentStateSchema, {
    deploymentId: observed.deploymentId,
    generation: observed.generation,
    absent: observed.absent,
    instances: observed.instances.map((instance) =>
      create(InstanceStateSchema, {
        workload: instance.workload,
        index: instance.index,
        phase: instance.phase,
        health: instance.health,
        restarts: instance.restarts,
        ...(instance.exitCode === undefined ? {} : { exitCode: instance.exitCode }),
        image: instance.image,
        ports: instance.ports.map(({ name, container, address, published }) => ({
          name,
          container,
          address,
          published,
        })),
        reason: instance.reason,
        ...(instance.startedAt === undefined ? {} : { startedAt: timestampFromDate(instance.startedAt) }),
      }),
    ),
  });
}
