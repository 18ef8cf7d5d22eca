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
  answering,
  converge,
  createObservations,
  createTurns,
  folderIdentity,
  forwarderProcess,
  invalid,
  isDeploymentId,
  lockFolder,
  makeFolder,
  openAll,
  secretNamesOf,
  type ConvergePorts,
  type OpenSecret,
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
import { execIn } from "./exec.ts";
import { listForeign } from "./foreign.ts";
import { forwarderPlace, type EngineInfo } from "./forwarder-place.ts";
import { forwarderContainer, noForwarder, removeForwarders } from "./forwarder.ts";
import { pullAll, type Credential } from "./images.ts";
import type { Instance } from "./instances.ts";
import { filterOf, forwarderSlot, labels } from "./labels.ts";
import { readLog } from "./logs.ts";
import { type Memory, memoryName, memoryPlaces, openMemory, refuseWithoutMemory } from "./memory.ts";
import { followEvents, listStrays, noticed, observeStrays } from "./observe.ts";
import {
  gone,
  kindOf,
  makeNetworks,
  makeVolumes,
  networkNames,
  removeNetworks,
  removeVolumes,
  volumeName,
} from "./places.ts";
import { inNetwork, probed, reach } from "./reach.ts";
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
  openSecret?: OpenSecret;
  /** Whether workloads may mount paths of the host. Default: they may not. */
  allowHostPaths?: boolean;
  /** As reported; the control plane's placement holds to it. Default 0: no limit known. */
  instanceLimit?: number;
  /** Bound of each of the two log files of a container, in bytes. Default 8 MiB. */
  logBytes?: number;
  /** Where files of secrets may be kept in memory. Default: /run, /dev/shm. None: they are copied into the containers. */
  memoryPlaces?: readonly string[];
  /** Forwarders are containers of this image. Unset: processes, or containers of the agent's own image (forwarder-place.ts). */
  forwarderImage?: string;
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
  const instanceOf = (deploymentId: string, workload: string, index: number) => {
    const deployment = held.get(deploymentId);
    return deployment === undefined ? undefined : answering(deployment, workload, index);
  };
  const unreadable = new Map<string, string>();
  const turns = createTurns();
  const observations = createObservations(held);
  const quitting = new AbortController();
  const info = await engine.call<EngineInfo>("GET", "/info");
  const forwarders = await forwarderPlace(engine, options.engine, info, options.forwarderImage);
  const passesOn = forwarders.kind !== "none";
  if (forwarders.kind === "none") log.warn({ why: forwarders.why }, "this agent has no forwarders");
  // Those of an agent that was a container, with this data folder.
  if (forwarders.kind === "process") await removeForwarders(engine, { [labels.agent]: folder.id });
  let away = "";
  let memory: Memory | undefined;

  async function openRegistry({ sealedRegistries }: Deployment, registry: string): Promise<Credential | undefined> {
    const sealed = sealedRegistries[registry];
    if (sealed === undefined || openSecret === undefined) return undefined;
    try {
      return JSON.parse(new TextDecoder().decode(await openSecret(sealed))) as Credential;
    } catch {
      throw invalid(`the credential of ${registry} is not sealed to this agent`); // why is nobody's business
    }
  }

  const surroundings: DeploymentSurroundings = {
    engine,
    times,
    dataDir,
    note: (level, message, facts) => log[level](facts, message),
    changed: (deploymentId) => observations.changed(deploymentId),
    reserved: (port) =>
      instances().some(({ definition }) => definition.ports.some(({ published }) => published === port)) ||
      [...held.values()].some(({ record }) => (record.forwards ?? []).some(({ published }) => published === port)),
    exec: (instance, command, signal) =>
      execIn(
        engine,
        instance.seen()?.Id,
        { command, tty: false },
        (async function* () {})(), // nothing is said to it
        AbortSignal.any([signal, quitting.signal]),
        (why) => log.warn({ deployment: instance.definition.deploymentId, why }, "a gate's command is not ended"),
      ),
    reach: (instance, port) => probed(engine, options.engine, instance, port),
    forwarderFor(deploymentId) {
      const path = join(dataDir, "forwarders", deploymentId);
      if (forwarders.kind === "process") return { forwarder: forwarderProcess(path), portsAreHere: true };
      if (forwarders.kind === "none")
        return { forwarder: noForwarder(deploymentId, owner, forwarders.why), portsAreHere: false };
      const given = { ...owner, installation: options.installation ?? "", place: forwarders };
      const forwarder = forwarderContainer(deploymentId, dataDir, given);
      return { forwarder, target: inNetwork, portsAreHere: forwarders.portsAreHere };
    },
    async find({ deploymentId, slot }) {
      const filters = filterOf({
        [labels.agent]: folder.id,
        [labels.deployment]: deploymentId,
        [labels.slot]: slot,
      });
      const [found] = await engine.call<Listed[]>("GET", "/containers/json", { query: { all: true, filters } });
      return found?.Id;
    },
    beforeStart: async (definition) => memory?.fill(definition),
    removed: async (definition) => memory?.forget(definition),
    async createFor(spec, definition, workload) {
      const secrets = await openAll(openSecret, spec.sealedSecrets, secretNamesOf(workload, spec));
      await memory?.fill(definition);
      const given = {
        agent: folder.id,
        installation: options.installation ?? "",
        secrets,
        memoryMounts: memory?.mounts(definition),
        logBytes: options.logBytes ?? defaultLogBytes,
      };
      return await createContainer(engine, spec, definition, workload, given);
    },
  };

  const instances = (): Instance[] => [...held.values()].flatMap(({ slots }) => [...slots.values()]);
  const holds = (deploymentId: string, slot: string): boolean => {
    const deployment = held.get(deploymentId);
    return deployment !== undefined && (slot === forwarderSlot || deployment.slots.has(slot));
  };

  /** What cannot be read must not keep everything else from running; its containers show as strays. */
  for (const id of await storedDeployments(dataDir)) {
    try {
      held.set(id, await holdDeployment(id, surroundings, 0));
    } catch (error) {
      unreadable.set(id, error instanceof Error ? error.message : String(error));
      log.error({ deployment: id, error: String(error) }, "a deployment's record cannot be read");
    }
  }
  memory = await openMemory(engine, {
    ...{ agent: folder.id, openSecret, securityOptions: info.SecurityOptions ?? [] },
    held: new Set(instances().map(({ definition }) => memoryName(definition))),
    places: options.memoryPlaces ?? memoryPlaces,
  });
  await Promise.all(instances().map((instance) => instance.resume()));
  for (const { forwards } of held.values()) forwards.resume();

  const following = followEvents(
    engine,
    folder.id,
    {
      async connected() {
        if (away !== "") log.info({}, "the Docker Engine is back");
        away = "";
        await Promise.all(instances().map((instance) => instance.refresh()));
      },
      event: (event) => {
        const instance =
          held.get(event.deploymentId)?.slots.get(event.slot) ??
          instances().find((one) => one.seen()?.Id === event.container);
        if (instance === undefined) return;
        noticed(instance, event).catch((error: unknown) =>
          log.warn({ ...event, error: String(error) }, "a container is not looked at"),
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
      openSecrets: (sealed, names) => openAll(openSecret, sealed, names),
      hostPort,
      context: ({ networks, volumes }) => ({
        networks: networks.map((network) => {
          const kind = kindOf(network);
          return [network.name, network.internal, network.externalName, ...(kind === "" ? [] : [kind])];
        }),
        volumes: volumes.map(({ name, externalName }) => [name, externalName]).filter(([, outside]) => outside !== ""),
      }),
      check(checked) {
        checkDockerSpec(checked, options.allowHostPaths ?? false, passesOn);
        if (memory === undefined) refuseWithoutMemory(checked);
      },
      async claimPorts() {}, // the engine says so at the start: its host may be another one
      findProgram() {}, // so does it about programs
      async endStrays() {
        const strays = await listStrays(engine, folder.id, holds, spec.id);
        for (const { Id } of strays) await gone(engine.call("DELETE", `/containers/${Id}`, { query: { force: true } }));
      },
      async prepare(wanted, making, report, cancel) {
        deployment.begin(wanted);
        await makeNetworks(owner, wanted);
        await makeVolumes(owner, wanted);
        await pullAll(engine, wanted, making, (registry) => openRegistry(wanted, registry), report, cancel);
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
        version: `Docker ${engine.version}, API ${engine.apiVersion}`,
        identity: `docker:${createHash("sha256").update(`bowline-docker:${info.ID}`).digest("hex").slice(0, 16)}:${folder.id}`,
        capabilities: [
          ...[
            "images",
            "container-options",
            "networks",
            "limits",
            "volumes",
            "pause",
            "jobs",
            "logs",
            "exec",
            "health-checks",
            "foreign-containers",
          ],
          ...(passesOn ? ["forwards"] : []),
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
        // What is wanted is there: an old network that somebody else is in goes with a later wish.
        if (end.kind === "succeeded" && spec.desired !== Deployment_Desired.ABSENT)
          await removeNetworks(owner, spec.id, networkNames(folder.id, spec)).catch((error: unknown) =>
            log.warn({ deployment: spec.id, error: String(error) }, "an old network is left for now"),
          );
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
      const instance = instanceOf(deploymentId, workload, 0);
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
      readLog(engine, () => instanceOf(deploymentId, workload, index)?.seen(), wanted, signal),

    exec: (deploymentId, workload, index, request, input, signal) =>
      execIn(
        engine,
        instanceOf(deploymentId, workload, index)?.seen()?.Id,
        request,
        input,
        AbortSignal.any([signal, quitting.signal]),
        (why) => log.warn({ deployment: deploymentId, workload, index, why }, "an exec is not ended"),
      ),

    async foreignContainers(signal) {
      const containers = await listForeign(engine, folder.id, AbortSignal.any([signal, quitting.signal]));
      return { kind: "listed", containers };
    },

    async close({ stopWorkloads }) {
      if (quitting.signal.aborted) return; // another runtime may have the folder by now
      quitting.abort();
      await turns.idle();
      const forwards = [...held.values()].map((deployment) => deployment.forwards);
      await Promise.all(forwards.map((each) => (stopWorkloads ? each.suspend() : each.letGo())));
      for (const instance of instances()) instance.letGo();
      if (stopWorkloads) await Promise.all(instances().map((instance) => instance.suspend(closeGraceMs)));
      for (const instance of instances()) instance.letGo();
      await following;
      observations.close();
      await memory?.close();
      await lock.release();
    },
  };
}
