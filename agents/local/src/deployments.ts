/**
 * What this runtime holds of one deployment, in memory and on disk.
 *
 *     forwarders/<id>/                            its forwarder, where it has one
 *     deployments/<id>/record.json                what holds, at which generation
 *     deployments/<id>/instances/<slot>/          one definition of one instance:
 *         instance.json state.json run.json       definition, wish, living run
 *         output.log output.log.1                 what it writes
 *         folder/                                 what it sees
 *
 *   converge.ts  changes it    instances.ts  one slot's life    observe.ts  shows it
 *
 * S1: the record names the slots of the last good generation; any other slot is
 *     a candidate of an attempt that has not succeeded.
 * S2: a slot's folder counts from the moment its instance.json is there, and
 *     until it is not.
 */
import { randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fromJson, toJson } from "@bufbuild/protobuf";
import type { ObservedDeployment } from "@bowline/agent-core";
import {
  allAnswering,
  assignPorts,
  createForwards,
  forwarderProcess,
  findPort,
  isMissing,
  makeFolder,
  newRecord,
  numberBehind,
  reachable,
  readDurable,
  removeFolder,
  renewTaken,
  writeDurably,
  secretNamesOf,
  type Opened,
} from "@bowline/agent-core/runtimes";
import type { DeploymentRecord, Held } from "@bowline/agent-core/runtimes";
import { WorkloadSchema } from "@bowline/contract/deployments";
import { createInstance } from "./instances.ts";
import type { Instance } from "./instances.ts";
import { openLog } from "./logs.ts";
import type { InstanceState } from "./phases.ts";
import type { InstanceSurroundings } from "./starting.ts";
import { observeInstance, readinessOf, whyNotYet } from "./readiness.ts";
import { fillFolder } from "./volumes.ts";
import type { Definition } from "./workloads.ts";

/** What a deployment needs from its runtime. */
export interface DeploymentSurroundings extends Omit<InstanceSurroundings, "changed" | "renewPorts"> {
  dataDir: string;
  logBytes: number;
  /** Whether a port number belongs to an instance of this runtime already. */
  reserved(port: number): boolean;
  /** Runs a command inside an instance. */
  exec: HeldDeployment["exec"];
  changed(deploymentId: string): void;
  /** Values by name. Throws a refusal. */
  openSecrets(sealed: Readonly<Record<string, string>>, names: readonly string[]): Promise<Opened>;
}

export interface HeldDeployment extends Held<Instance> {
  observe(): ObservedDeployment;
}

/** Finds what is on disk of a deployment, or makes a new one. Its instances don't run yet. */
export async function holdDeployment(
  id: string,
  surroundings: DeploymentSurroundings,
  generation: number,
): Promise<HeldDeployment> {
  const folder = join(surroundings.dataDir, "deployments", id);
  const instancesFolder = join(folder, "instances");
  await makeFolder(instancesFolder);
  const record =
    ((await readDurable(join(folder, "record.json"))) as DeploymentRecord | undefined) ?? newRecord(id, generation);
  const slots = new Map<string, Instance>();
  const listeners = new Set<() => void>();
  const changed = (): void => {
    for (const listener of [...listeners]) listener();
    surroundings.changed(id);
  };

  function open(definition: Definition, state: InstanceState): Instance {
    const slotFolder = join(instancesFolder, definition.slot);
    const workload = fromJson(WorkloadSchema, definition.workload);
    const log = openLog(join(slotFolder, "output.log"), surroundings.logBytes);
    const instance = createInstance(slotFolder, definition, workload, state, log, {
      ...surroundings,
      changed,
      async renewPorts() {
        if (!(await renewTaken(definition.ports, (port) => surroundings.reserved(port)))) return;
        await writeDurably(join(slotFolder, "instance.json"), definition);
      },
    });
    slots.set(definition.slot, instance);
    return instance;
  }

  for (const slot of await readdir(instancesFolder)) {
    const slotFolder = join(instancesFolder, slot);
    const definition = (await readDurable(join(slotFolder, "instance.json"))) as Definition | undefined;
    if (definition === undefined) await removeFolder(slotFolder, "instance.json"); // S2
    else
      open(
        definition,
        ((await readDurable(join(slotFolder, "state.json"))) as InstanceState | undefined) ??
          newState(definition.generation),
      );
  }

  const held: HeldDeployment = {
    record,
    slots,
    async saveRecord(change) {
      Object.assign(record, change);
      await writeDurably(join(folder, "record.json"), record);
      surroundings.changed(id);
    },
    isCurrent: (instance) => record.current.includes(instance.definition.slot),
    async addSlot(spec, workload, index, digest, inherited) {
      const slot = `${workload.name}.${index}.${randomBytes(4).toString("hex")}`;
      const slotFolder = join(instancesFolder, slot);
      await makeFolder(slotFolder);
      const secrets = await surroundings.openSecrets(spec.sealedSecrets, secretNamesOf(workload, spec));
      await fillFolder(surroundings.dataDir, join(slotFolder, "folder"), workload, spec, secrets);
      const definition: Definition = {
        slot,
        deploymentId: id,
        workload: toJson(WorkloadSchema, workload),
        index,
        generation: spec.generation,
        digest,
        ports: await assignPorts(workload, inherited, (port) => surroundings.reserved(port), numberBehind(spec)),
        sealedSecrets: Object.fromEntries(
          workload.secrets.map(({ secret }) => [secret, spec.sealedSecrets[secret] ?? ""]),
        ),
      };
      const state = newState(spec.generation);
      await writeDurably(join(slotFolder, "state.json"), state);
      await writeDurably(join(slotFolder, "instance.json"), definition); // S2
      return open(definition, state);
    },
    async removeSlot(instance) {
      await instance.stop();
      await removeFolder(instance.folder, "instance.json");
      slots.delete(instance.definition.slot);
      changed();
    },
    async erase() {
      await removeFolder(folder, "record.json");
    },
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    readiness: readinessOf,
    whyNotYet,
    get forwards() {
      return forwards;
    },
    reach({ definition }, wanted) {
      const port = findPort(definition.ports, wanted);
      return port === undefined ? undefined : reachable(port);
    },
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
    forwarder: forwarderProcess(join(surroundings.dataDir, "forwarders", id)),
    portsAreHere: true,
    defaultAddress: "127.0.0.1",
    reserved: (port) => surroundings.reserved(port),
    changed: () => surroundings.changed(id),
    note: (level, message, facts) => surroundings.note(level, message, facts),
  });
  return held;
}

/** Removes the records of a deployment that cannot be read, so that an ABSENT spec can remove the rest. */
export async function discardRecords(dataDir: string, id: string): Promise<void> {
  await removeFolder(join(dataDir, "deployments", id), "record.json");
}

/** Ids of the deployments that are on disk. */
export async function storedDeployments(dataDir: string): Promise<string[]> {
  try {
    return await readdir(join(dataDir, "deployments"));
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

function newState(generation: number): InstanceState {
  return { wish: "stop", generation, restarts: 0, failures: 0, done: false };
}
