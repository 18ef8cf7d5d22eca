/**
 * Which instances of a workload start at one time, and which old ones have to
 * end before them.
 *
 *   rollout.ts  does it
 */
import { UpdateConfig_Order } from "@bowline/contract/deployments";
import type { Deployment, Port, Workload } from "@bowline/contract/deployments";
import type { Member } from "./members.ts";
import { unsupported, type Refusal } from "./refusal.ts";

/** The number on the host that a port of a spec asks for; undefined: none, or any. */
type Ports = { hostPort: (port: Port) => number | undefined };

/**
 * Instances that take an old one's place come `maxParallel` at a time; what is
 * there already, or has no predecessor, comes with the first.
 */
export function batchesOf<M extends Member>(
  workload: Workload,
  instances: readonly M[],
  isNew: (instance: M) => boolean,
  leaving: readonly M[],
): M[][] {
  const replaces = (instance: M): boolean =>
    isNew(instance) &&
    leaving.some((old) => old.workload.name === workload.name && old.definition.index === instance.definition.index);
  const first = instances.filter((instance) => !replaces(instance));
  const others = instances.filter(replaces);
  const size = workload.update?.maxParallel || others.length || 1;
  const batches: M[][] = [[...first, ...others.slice(0, size)]];
  for (let next = size; next < others.length; next += size) batches.push(others.slice(next, next + size));
  return batches;
}

/** Whether an old instance ends before one of the fresh workload starts. */
export function makesWay(old: Member, fresh: Workload, index: number, spec: Deployment, ports: Ports): boolean {
  switch (fresh.update?.order) {
    case UpdateConfig_Order.STOP_FIRST:
      return (old.workload.name === fresh.name && old.definition.index === index) || excludes(old, fresh, spec, ports);
    case UpdateConfig_Order.START_FIRST: // of its own it goes beside (refuseBeside); others may still have its port
      return old.workload.name !== fresh.name && sharesPort(old, fresh, ports);
    default:
      return excludes(old, fresh, spec, ports);
  }
}

/** Why a workload that is to start first cannot: undefined where it can. */
export function refuseBeside(old: Member, fresh: Workload, ports: Ports): Refusal | undefined {
  if (fresh.update?.order !== UpdateConfig_Order.START_FIRST) return undefined;
  if (old.workload.name !== fresh.name || !sharesPort(old, fresh, ports)) return undefined;
  return unsupported(
    `workload ${fresh.name}: it is to start before the old one ends, and both have a port of the host; publish it by a forward`,
  );
}

/** Whether an old instance and a fresh one cannot run at once. */
function excludes(old: Member, fresh: Workload, spec: Deployment, ports: Ports): boolean {
  return sharesPort(old, fresh, ports) || sharesVolume(old.workload, fresh, spec);
}

function sharesPort(old: Member, fresh: Workload, { hostPort }: Ports): boolean {
  return fresh.ports.some((port) => {
    const fixed = hostPort(port);
    return fixed !== undefined && heldBy([old], fixed, port.protocol === "udp" ? "udp" : "tcp");
  });
}

export function heldBy(instances: readonly Member[], port: number, protocol: "tcp" | "udp"): boolean {
  return instances.some(({ definition }) =>
    definition.ports.some((held) => held.published === port && held.protocol === protocol),
  );
}

/** Whether both may write to one volume that is not made for two writers. */
function sharesVolume(old: Workload, fresh: Workload, spec: Deployment): boolean {
  const writable = (workload: Workload): string[] =>
    workload.mounts.flatMap(({ source, readOnly }) => (source.case === "volume" && !readOnly ? [source.value] : []));
  const shared = writable(old).filter((name) => writable(fresh).includes(name));
  return shared.some((name) => spec.volumes.find((volume) => volume.name === name)?.accessMode !== "rwx");
}
