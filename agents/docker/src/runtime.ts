/**
 * The Docker runtime: the port of agents/core on top of a Docker Engine.
 *
 * One runtime per data folder, which has `runtime.json`, `runtime.pid` and
 * `deployments/`. On the engine it owns what carries its folder's label, and
 * never touches anything else.
 *
 * Long because the port's methods share the engine, the deployments and the turns.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { access, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { ConvergeEnd, Runtime } from "@bowline/agent-core";
import {
  converge,
  createObservations,
  createTurns,
  folderIdentity,
  invalid,
  isDeploymentId,
  lockFolder,
  makeFolder,
  unsupported,
  type ConvergePorts,
} from "@bowline/agent-core/runtimes";
import { Deployment_Desired, type Deployment } from "@bowline/contract/deployments";
import type { Listed } from "./containers.ts";
import { createContainer } from "./creation.ts";
import {
  holdDeployment,
  recordPath,
  storedDeployments,
  type DeploymentSurroundings,
  type HeldDeployment,
} from "./deployments.ts";
import { openEngine, type EngineAddress } from "./engine.ts";
import { pullAll, type RegistryAuth } from "./images.ts";
import type { Instance } from "./instances.ts";
import { filterOf, labels } from "./labels.ts";
import { readLog } from "./logs.ts";
import { followEvents, listStrays, noticed, observeStrays } from "./observe.ts";
import { gone, makeNetworks, makeVolumes, networkNames, removeNetworks, removeVolumes, volumeName } from "./places.ts";
import { probed, reach } from "./reach.ts";
import { defaultTimes, type Times } from "./times.ts";
import { checkDockerSpec, hostPort } from "./workloads.ts";

export interface DockerRuntimeOptions {
  /** Made if it is not there. */
  dataDir: string;
  engine: EngineAddress;
  /** Where it says what it does; pino's loggers fit. */
  log: Record<"info" | "warn" | "error", (facts: Record<string, unknown>, message: string) => void>;
  /** Where the control plane is; a label for people. */
  installation?: string;
  /** Opens a sealed secret. Unset: workloads with secrets are refused as UNSUPPORTED. */
  openSecret?: (sealed: string) => Promise<string>;
  /** Whether workloads may mount paths of the host. Default: they may not. */
  allowHostPaths?: boolean;
  /** Default: none has any. */
  registryAuth?: RegistryAuth;
  /** As reported; the control plane's placement holds to it. Default 0: no limit known. */
  instanceLimit?: number;
  /** Bound of each of the two log files of a container, in bytes. Default 8 MiB. */
  logBytes?: number;
  /** For tests. */
  times?: Partial<Times>;
}

/** A workload's own stop grace may be long, but an agent that ends with its workloads has 7.5 s for everything. */
const closeGraceMs = 3_000;

const defaultLogBytes = 8 * 1024 * 1024;

/**
 * Adopts what an earlier agent left on the engine and takes specs from then on.
 *
 * Throws `DataDirInUse` if another runtime has the folder, and an EngineError
 * if the engine cannot be reached.
 */
export async function createDockerRuntime(options: DockerRuntimeOptions): Promise<Runtime> {
  const dataDir = resolve(options.dataDir);
  await makeFolder(join(dataDir, "deployments"));
  const lock = await lockFolder(dataDir);
  try {
    return await createLocked({ ...options, dataDir }, lock);
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function createLocked(options: DockerRuntimeOptions, lock: { release(): Promise<void> }): Promise<Runtime> {
  const { dataDir, log, openSecret } = options;
  const engine = await openEngine(options.engine);
  const folder = await folderIdentity(dataDir);
  const owner = { engine, agent: folder.id };
  const times = { ...defaultTimes, ...options.times };
  const held = new Map<string, HeldDeployment>();
  const unreadable = new Map<string, string>();
  const turns = createTurns();
  const observations = createObservations(held);
  const quitting = new AbortController();
  const info = await engine.call<{ ID: string; ServerVersion: string }>("GET", "/info");
  let away = "";

  async function openSecrets(
    sealed: Readonly<Record<string, string>>,
    names: readonly string[],
  ): Promise<Record<string, string>> {
    if (names.length > 0 && openSecret === undefined) throw unsupported("this agent cannot open secrets");
    const opened: Record<string, string> = {};
    for (const name of names) {
      try {
        opened[name] = (await openSecret?.(sealed[name] ?? "")) ?? "";
      } catch {
        throw invalid(`the secret ${name} is not sealed to this agent`); // why is nobody's business
      }
    }
    return opened;
  }

  const surroundings: DeploymentSurroundings = {
    engine,
    times,
    dataDir,
    note: (level, message, facts) => log[level](facts, message),
    changed: (deploymentId) => observations.changed(deploymentId),
    reserved: (port) =>
      instances().some(({ definition }) => definition.ports.some(({ published }) => published === port)),
    reach: (instance, port) => probed(engine, options.engine, instance, port),
    async find({ deploymentId, slot }) {
      const filters = filterOf({
        [labels.agent]: folder.id,
        [labels.deployment]: deploymentId,
        [labels.slot]: slot,
      });
      const [found] = await engine.call<Listed[]>("GET", "/containers/json", { query: { all: true, filters } });
      return found?.Id;
    },
    async createFor(spec, definition, workload) {
      const names = workload.secrets.map(({ secret }) => secret);
      const secrets = await openSecrets(spec.sealedSecrets, names);
      const given = {
        agent: folder.id,
        installation: options.installation ?? "",
        secrets,
        logBytes: options.logBytes ?? defaultLogBytes,
      };
      return await createContainer(engine, spec, definition, workload, given);
    },
  };

  const instances = (): Instance[] => [...held.values()].flatMap(({ slots }) => [...slots.values()]);
  const holds = (deploymentId: string, slot: string): boolean => held.get(deploymentId)?.slots.has(slot) ?? false;

  /** What cannot be read must not keep everything else from running; its containers show as strays. */
  for (const id of await storedDeployments(dataDir)) {
    try {
      held.set(id, await holdDeployment(id, surroundings, 0));
    } catch (error) {
      unreadable.set(id, error instanceof Error ? error.message : String(error));
      log.error({ deployment: id, error: String(error) }, "a deployment's record cannot be read");
    }
  }
  await Promise.all(instances().map((instance) => instance.resume()));

  const following = followEvents(
    engine,
    folder.id,
    {
      async connected() {
        if (away !== "") log.info({}, "the Docker Engine is back");
        away = "";
        await Promise.all(instances().map((instance) => instance.refresh()));
      },
      event: ({ action, deploymentId, slot, exitCode }) => {
        const instance = held.get(deploymentId)?.slots.get(slot);
        if (instance === undefined) return;
        noticed(instance, { action, deploymentId, slot, exitCode }).catch((error: unknown) =>
          log.warn({ deployment: deploymentId, action, error: String(error) }, "a container is not looked at"),
        );
      },
      away(why) {
        if (away === "") log.warn({ why }, "the Docker Engine is away");
        away = why;
      },
    },
    times,
    quitting.signal,
  );

  function portsOf(deployment: HeldDeployment, spec: Deployment): ConvergePorts {
    return {
      kind: "docker",
      digestKey: folder.digestKey,
      openSecrets,
      hostPort,
      context: ({ networks, volumes }) => ({
        networks: networks.map(({ name, internal, externalName }) => [name, internal, externalName]),
        volumes: volumes.map(({ name, externalName }) => [name, externalName]).filter(([, outside]) => outside !== ""),
      }),
      check: (checked) => checkDockerSpec(checked, options.allowHostPaths ?? false),
      async claimPorts() {}, // the engine says so at the start: its host may be another one
      findProgram() {}, // so does it about programs
      async endStrays() {
        const strays = await listStrays(engine, folder.id, holds, spec.id);
        for (const { Id } of strays) await gone(engine.call("DELETE", `/containers/${Id}`, { query: { force: true } }));
      },
      async prepare(wanted, report, cancel) {
        deployment.begin(wanted);
        await makeNetworks(owner, wanted);
        await makeVolumes(owner, wanted);
        await pullAll(engine, wanted, options.registryAuth ?? (() => undefined), report, cancel);
      },
      async clear(volumes, all) {
        await removeNetworks(owner, spec.id, []);
        await removeVolumes(owner, spec.id, volumes, all);
      },
    };
  }

  return {
    async describe() {
      return {
        kind: "docker",
        version: `Docker ${info.ServerVersion}, API ${engine.apiVersion}`,
        identity: `docker:${createHash("sha256").update(`bowline-docker:${info.ID}`).digest("hex").slice(0, 16)}:${folder.id}`,
        capabilities: [
          ...["images", "networks", "limits", "volumes", "pause", "jobs", "logs", "health-checks"],
          ...(options.allowHostPaths === true ? ["host-paths"] : []),
          ...(openSecret === undefined ? [] : ["secrets"]),
        ],
        instanceLimit: options.instanceLimit ?? 0,
        problem: [away, ...unreadable.values()].filter((text) => text !== "").join("; "),
      };
    },

    async converge(spec, report, signal): Promise<ConvergeEnd> {
      if (!isDeploymentId(spec.id)) {
        const message = `${JSON.stringify(spec.id)} is not a deployment's id`;
        return { kind: "failed", reason: "SPEC_INVALID", message, worthRetry: false };
      }
      return await turns.take(spec.id, async () => {
        if (quitting.signal.aborted || signal.aborted) return { kind: "cancelled" };
        if (unreadable.has(spec.id) && spec.desired === Deployment_Desired.ABSENT) {
          await rm(recordPath(dataDir, spec.id), { force: true });
          unreadable.delete(spec.id);
        }
        const deployment = held.get(spec.id) ?? (await holdDeployment(spec.id, surroundings, spec.generation));
        held.set(spec.id, deployment);
        const end = await converge(deployment, spec, portsOf(deployment, spec), report, {
          cancel: signal,
          quit: quitting.signal,
        });
        if (end.kind === "succeeded" && spec.desired !== Deployment_Desired.ABSENT)
          await removeNetworks(owner, spec.id, networkNames(folder.id, spec));
        const { desired, settled } = deployment.record;
        const refused = !settled && end.kind !== "succeeded" && deployment.slots.size === 0;
        if (refused) await deployment.erase();
        if (refused || (deployment.slots.size === 0 && desired === "ABSENT")) held.delete(spec.id);
        observations.changed(spec.id);
        return end;
      });
    },

    async list() {
      const strays = away === "" ? await listStrays(engine, folder.id, holds) : [];
      const known = [...held.values()].map((deployment) => deployment.observe());
      return [...known, ...observeStrays(strays).filter(({ deploymentId }) => !held.has(deploymentId))];
    },

    watch: (changed, signal) => observations.watch(changed, signal),

    async upstream(deploymentId, workload, port) {
      const instance = held.get(deploymentId)?.find(workload, 0);
      return instance === undefined ? undefined : reach(engine, options.engine, instance, port);
    },

    async volumePath(deploymentId, volume) {
      if (!/^[a-z][a-z0-9-]{0,62}$/.test(volume) || !held.has(deploymentId)) return undefined;
      try {
        const path = `/volumes/${volumeName(folder.id, deploymentId, volume)}`;
        const { Mountpoint } = await engine.call<{ Mountpoint: string }>("GET", path);
        await access(Mountpoint, constants.W_OK | constants.X_OK); // another host's, or the agent is in a container
        return Mountpoint;
      } catch {
        return undefined; // there is none, or none that we can write to
      }
    },

    logs: (deploymentId, workload, index, wanted, signal) =>
      readLog(engine, () => held.get(deploymentId)?.find(workload, index)?.seen()?.Id, wanted, signal),

    async close({ stopWorkloads }) {
      if (quitting.signal.aborted) return; // another runtime may have the folder by now
      quitting.abort();
      await turns.idle();
      for (const instance of instances()) instance.letGo();
      if (stopWorkloads) await Promise.all(instances().map((instance) => instance.suspend(closeGraceMs)));
      for (const instance of instances()) instance.letGo();
      await following;
      observations.close();
      await lock.release();
    },
  };
}
