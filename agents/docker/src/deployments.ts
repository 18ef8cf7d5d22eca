/**
 * What this runtime holds of one deployment: a record in the agent's data
 * folder, and containers that carry its labels.
 *
 *     deployments/<id>.json   what holds, at which generation, and each slot's definition
 *
 * S1: the record names the slots of the last good generation; any other slot is
 *     a candidate of an attempt that has not succeeded.
 * S2: a slot is in the record before its container is made, and until that is
 *     gone: a container whose slot no record has is a stray.
 */
import { randomBytes } from "node:crypto";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fromJson, toJson } from "@bufbuild/protobuf";
import type { ObservedDeployment } from "@bowline/agent-core";
import {
  allAnswering,
  createForwards,
  isMissing,
  newRecord,
  readDurable,
  readinessOf,
  whyNotYet,
  writeDurably,
  type DeploymentRecord,
  type ForwardSurroundings,
  type Held,
} from "@bowline/agent-core/runtimes";
import { WorkloadSchema } from "@bowline/contract/deployments";
import type { Deployment, Workload } from "@bowline/contract/deployments";
import { createInstance, type Instance, type InstanceState, type InstanceSurroundings } from "./instances.ts";
import { memoryFilesOf } from "./memory.ts";
import { observeInstance } from "./observe.ts";
import { assignPorts, startsAgain, type Definition } from "./workloads.ts";

interface Slot {
  definition: Definition;
  state: InstanceState;
}

interface StoredRecord extends DeploymentRecord {
  slots: Record<string, Slot>;
}

/** What a deployment needs from its runtime. */
export interface DeploymentSurroundings extends Omit<
  InstanceSurroundings,
  "create" | "renewPorts" | "save" | "changed"
> {
  dataDir: string;
  /** Whether a port number belongs to an instance of this runtime already. */
  reserved(port: number): boolean;
  /** Runs a command inside an instance. */
  exec: HeldDeployment["exec"];
  changed(deploymentId: string): void;
  /** What holds its forwards. */
  forwarderFor(deploymentId: string): Pick<ForwardSurroundings<Instance>, "forwarder" | "target" | "portsAreHere">;
  /** Makes a container of a spec and returns its id. Throws a refusal. */
  createFor(spec: Deployment, definition: Definition, workload: Workload): Promise<string>;
}

export interface HeldDeployment extends Held<Instance> {
  /** What containers are made for from now on. */
  begin(spec: Deployment): void;
  observe(): ObservedDeployment;
}

/** Finds what is stored of a deployment, or makes a new one. Its instances are not looked for yet. */
export async function holdDeployment(
  id: string,
  surroundings: DeploymentSurroundings,
  generation: number,
): Promise<HeldDeployment> {
  const path = recordPath(surroundings.dataDir, id);
  const found = (await readDurable(path)) as StoredRecord | undefined;
  const record: StoredRecord = found ?? { ...newRecord(id, generation), slots: {} };
  const slots = new Map<string, Instance>();
  const listeners = new Set<() => void>();
  let spec: Deployment | undefined;
  const save = (): Promise<void> => writeDurably(path, record);
  const changed = (): void => {
    for (const listener of [...listeners]) listener();
    surroundings.changed(id);
  };

  function open({ definition, state }: Slot): Instance {
    const instance: Instance = createInstance(
      definition,
      fromJson(WorkloadSchema, definition.workload),
      state,
      {
        ...surroundings,
        changed,
        save,
        async create(wanted, workload) {
          if (spec === undefined) throw new Error("no spec to make a container for");
          return await surroundings.createFor(spec, wanted, workload);
        },
        async renewPorts(wanted) {
          wanted.ports = await assignPorts(instance.workload, [], (port) => surroundings.reserved(port));
          await save();
        },
      },
      undefined,
    );
    slots.set(definition.slot, instance);
    return instance;
  }

  for (const slot of Object.values(record.slots)) open(slot);

  const held: HeldDeployment = {
    record,
    slots,
    begin(next) {
      spec = next;
    },
    async saveRecord(change) {
      Object.assign(record, change);
      await save();
      surroundings.changed(id);
    },
    isCurrent: (instance) => record.current.includes(instance.definition.slot),
    async addSlot(wanted, workload, index, digest, inherited) {
      const slot = `${workload.name}-${index}-${randomBytes(4).toString("hex")}`;
      const memoryFiles = memoryFilesOf(workload, wanted);
      const definition: Definition = {
        slot,
        deploymentId: id,
        workload: toJson(WorkloadSchema, workload),
        index,
        digest,
        ports: await assignPorts(workload, inherited, (port) => surroundings.reserved(port)),
        ...(memoryFiles.length === 0 ? {} : { memoryFiles }),
      };
      const state: InstanceState = {
        wish: "stop",
        generation: wanted.generation,
        restartsBefore: 0,
        done: false,
        suspended: false,
      };
      record.slots[slot] = { definition, state };
      await save(); // S2
      const instance = open({ definition, state });
      await instance.make();
      return instance;
    },
    async removeSlot(instance) {
      await instance.stop();
      await instance.remove();
      slots.delete(instance.definition.slot);
      delete record.slots[instance.definition.slot];
      await save(); // S2
      changed();
    },
    async erase() {
      await rm(path, { force: true });
    },
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    readiness(instance) {
      const phase = instance.phase();
      const good = phase.kind === "exited" && phase.exit.code === 0 && !startsAgain(instance.workload, 0, 0);
      return readinessOf(instance, good, () => instance.output());
    },
    async whyNotYet(instance) {
      const { why, wrote } = await instance.lately();
      return whyNotYet(instance, why, wrote);
    },
    get forwards() {
      return forwards;
    },
    reach: surroundings.reach,
    exec: surroundings.exec,
    observe() {
      const instances = allAnswering(held).map((instance) => {
        const observed = observeInstance(instance);
        const reason = [observed.reason, forwards.problem(instance)].filter((text) => text !== "").join("; ");
        return { ...observed, reason, ports: forwards.shown(instance, observed.ports) };
      });
      return { deploymentId: id, generation: record.generation, instances, absent: false };
    },
  };
  const forwards = createForwards(held, {
    ...surroundings.forwarderFor(id),
    defaultAddress: "0.0.0.0",
    reserved: (port) => surroundings.reserved(port),
    changed: () => surroundings.changed(id),
    note: (level, message, facts) => surroundings.note(level, message, facts),
  });
  return held;
}

/** Ids of the deployments that are on disk. */
export async function storedDeployments(dataDir: string): Promise<string[]> {
  try {
    const names = await readdir(join(dataDir, "deployments"));
    return names.flatMap((name) => /^(.+)\.json$/.exec(name)?.[1] ?? []);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

export function recordPath(dataDir: string, id: string): string {
  return join(dataDir, "deployments", `${id}.json`);
}
