/**
 * The local runtime: the port of agents/core on top of this machine's processes.
 *
 * One runtime per data folder; it lives in `runtime.json`, `runtime.pid`,
 * `deployments/` and `volumes/` there and leaves everything else alone.
 */
import { homedir, release } from "node:os";
import { delimiter, dirname, resolve } from "node:path";
import type { ConvergeEnd, Runtime } from "@bowline/agent-core";
import {
  answering,
  claimPorts,
  converge,
  createObservations,
  createTurns,
  findPort,
  folderIdentity,
  isDeploymentId,
  lockFolder,
  makeFolder,
  numberBehind,
  openAll,
  reachable,
  readBootId,
} from "@bowline/agent-core/runtimes";
import type { ConvergePorts, OpenSecret } from "@bowline/agent-core/runtimes";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { discardRecords, holdDeployment, storedDeployments } from "./deployments.ts";
import type { DeploymentSurroundings, HeldDeployment } from "./deployments.ts";
import { endExecs, execIn } from "./exec.ts";
import { runtimeIdentity } from "./identity.ts";
import { readLog } from "./logs.ts";
import { observeStrays } from "./observe.ts";
import { markers } from "./processes.ts";
import { endStrays } from "./strays.ts";
import { defaultTimes } from "./times.ts";
import type { Times } from "./times.ts";
import { isFolder, makeVolumes, removeVolumes, volumeFolder } from "./volumes.ts";
import { checkLocalSpec, environmentOf, findProgram } from "./workloads.ts";

export interface LocalRuntimeOptions {
  /** Made if it is not there. */
  dataDir: string;
  /** Where it says what it does; pino's loggers fit. */
  log: Record<"info" | "warn" | "error", (facts: Record<string, unknown>, message: string) => void>;
  /**
   * Environment of the agent. Only PATH, HOME, USER, LOGNAME, SHELL, LANG,
   * LC_*, TZ and TMPDIR of it reach a workload. Default: a usual PATH.
   */
  hostEnvironment?: Readonly<Record<string, string | undefined>>;
  /** Opens a sealed secret. Unset: workloads with secrets are refused as UNSUPPORTED. */
  openSecret?: OpenSecret;
  /** As reported; the control plane's placement holds to it. Default 0: no limit known. */
  instanceLimit?: number;
  /** Bound of each of the two log files of an instance, in bytes. Default 8 MiB. */
  logBytes?: number;
  /** For tests. */
  times?: Partial<Times>;
}

/** A workload's own stop grace may be long, but an agent that ends with its workloads has 7.5 s for everything. */
const closeGraceMs = 3_000;

const defaultLogBytes = 8 * 1024 * 1024;

const inherited = /^(PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_[A-Z]+|TZ|TMPDIR)$/;

/** Used where the agent gives no environment; our own node first, so that `node` is always found. */
const usualPath = [
  dirname(process.execPath),
  "/usr/local/sbin",
  "/usr/local/bin",
  "/usr/sbin",
  "/usr/bin",
  "/sbin",
  "/bin",
];

/**
 * Adopts what an earlier agent left running in `dataDir`, restarts what has
 * ended since, and takes specs from then on.
 *
 * Throws `DataDirInUse` if another runtime has the folder, and an Error if the
 * folder cannot be used or this is not Linux. A deployment whose records cannot
 * be read is the description's `problem`; only ABSENT is possible for it.
 */
export async function createLocalRuntime(options: LocalRuntimeOptions): Promise<Runtime> {
  if (process.platform !== "linux") throw new Error(`the local runtime needs Linux's /proc, not ${process.platform}`);
  const dataDir = resolve(options.dataDir); // links to volumes must hold from anywhere
  await makeFolder(dataDir);
  const lock = await lockFolder(dataDir);
  try {
    return await createLocked({ ...options, dataDir }, lock);
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function createLocked(options: LocalRuntimeOptions, lock: { release(): Promise<void> }): Promise<Runtime> {
  const { dataDir, log, openSecret } = options;
  const folder = await folderIdentity(dataDir);
  const identity = await runtimeIdentity(folder);
  const times = { ...defaultTimes, ...options.times };
  const base = baseEnvironment(options.hostEnvironment);
  const held = new Map<string, HeldDeployment>();
  const instanceOf = (deploymentId: string, workload: string, index: number) => {
    const deployment = held.get(deploymentId);
    return deployment === undefined ? undefined : answering(deployment, workload, index);
  };
  const turns = createTurns();
  const observations = createObservations(held);
  const quitting = new AbortController();

  const surroundings: DeploymentSurroundings = {
    runtimeId: folder.id,
    bootId: readBootId(),
    times,
    dataDir,
    logBytes: options.logBytes ?? defaultLogBytes,
    note: (level, message, facts) => log[level](facts, message),
    changed: (deploymentId) => observations.changed(deploymentId),
    reserved: (port) =>
      [...held.values()].some(({ slots }) =>
        [...slots.values()].some(({ definition }) => definition.ports.some(({ published }) => published === port)),
      ) || [...held.values()].some(({ record }) => (record.forwards ?? []).some(({ published }) => published === port)),
    exec: (instance, command, signal) =>
      execIn(
        instance,
        (one) => surroundings.environment(one.definition, one.workload),
        { command, tty: false },
        (async function* () {})(), // nothing is said to it
        AbortSignal.any([signal, quitting.signal]),
      ),
    openSecrets: (sealed, names) => openAll(openSecret, sealed, names),
    async environment(definition, workload) {
      const { deploymentId, index, generation } = definition;
      const secrets = await openAll(openSecret, definition.sealedSecrets, Object.keys(definition.sealedSecrets));
      const marks = {
        [markers.runtime]: folder.id,
        [markers.instance]: `${deploymentId}/${workload.name}/${index}/${generation}`,
      };
      return environmentOf(workload, definition, { base, secrets, marks });
    },
  };

  const instances = () => [...held.values()].flatMap(({ slots }) => [...slots.values()]);

  /** What cannot be read must not keep everything else from running; its processes show as strays. */
  const unreadable = new Map<string, string>();
  for (const id of await storedDeployments(dataDir)) {
    try {
      held.set(id, await holdDeployment(id, surroundings, 0));
    } catch (error) {
      unreadable.set(id, error instanceof Error ? error.message : String(error));
      log.error({ deployment: id, error: String(error) }, "a deployment's records cannot be read");
    }
  }
  await endExecs(folder.id);
  await Promise.all(instances().map((instance) => instance.resume()));
  for (const { forwards } of held.values()) forwards.resume();
  const cutting = setInterval(() => {
    for (const instance of instances()) instance.log.cut();
  }, times.logCutMs);
  cutting.unref();

  return {
    async describe() {
      return {
        kind: "local",
        version: `Linux ${release()}`,
        identity,
        capabilities: [
          "volumes",
          "pause",
          "jobs",
          "logs",
          "exec",
          "health-checks",
          "forwards",
          ...(openSecret === undefined ? [] : ["secrets"]),
        ],
        instanceLimit: options.instanceLimit ?? 0,
        problem: [...unreadable.values()].join("; "),
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
          await discardRecords(dataDir, spec.id);
          unreadable.delete(spec.id);
        }
        const deployment = held.get(spec.id) ?? (await holdDeployment(spec.id, surroundings, spec.generation));
        held.set(spec.id, deployment);
        const ports: ConvergePorts = {
          kind: "local",
          context: () => undefined,
          digestKey: folder.digestKey,
          openSecrets: (sealed, names) => openAll(openSecret, sealed, names),
          claimPorts,
          hostPort: numberBehind(spec),
          check: checkLocalSpec,
          findProgram: (workload) =>
            findProgram(workload, workload.environment["PATH"] ?? base["PATH"] ?? "", undefined),
          endStrays: () => endStrays(deployment, folder.id),
          prepare: () => makeVolumes(dataDir, spec),
          clear: (volumes, all) => removeVolumes(dataDir, spec.id, volumes, all),
        };
        const end = await converge(deployment, spec, ports, report, { cancel: signal, quit: quitting.signal });
        const { desired, settled } = deployment.record;
        const refused = !settled && end.kind !== "succeeded" && deployment.slots.size === 0;
        if (refused) await deployment.erase();
        if (refused || (deployment.slots.size === 0 && desired === "ABSENT")) held.delete(spec.id);
        observations.changed(spec.id);
        return end;
      });
    },

    async list() {
      return [...[...held.values()].map((deployment) => deployment.observe()), ...observeStrays(folder.id, held)];
    },

    watch: (changed, signal) => observations.watch(changed, signal),

    async upstream(deploymentId, workload, port) {
      const instance = instanceOf(deploymentId, workload, 0);
      // What is only waiting for its next start keeps its address.
      if (instance === undefined || ["idle", "exited"].includes(instance.phase().kind)) return undefined;
      const found = findPort(instance.definition.ports, port);
      return found === undefined ? undefined : reachable(found);
    },

    async volumePath(deploymentId, volume) {
      if (!/^[a-z][a-z0-9-]{0,62}$/.test(volume) || !held.has(deploymentId)) return undefined;
      const path = volumeFolder(dataDir, deploymentId, volume);
      return (await isFolder(path)) ? path : undefined;
    },

    logs: (deploymentId, workload, index, wanted, signal) =>
      readLog(() => instanceOf(deploymentId, workload, index)?.log, wanted, signal),

    exec: (deploymentId, workload, index, request, input, signal) =>
      execIn(
        instanceOf(deploymentId, workload, index),
        (instance) => surroundings.environment(instance.definition, instance.workload),
        request,
        input,
        AbortSignal.any([signal, quitting.signal]),
      ),

    async close({ stopWorkloads }) {
      if (quitting.signal.aborted) return; // another runtime may have the folder by now
      quitting.abort();
      clearInterval(cutting);
      await turns.idle();
      const forwards = [...held.values()].map((deployment) => deployment.forwards);
      await Promise.all(forwards.map((each) => (stopWorkloads ? each.suspend() : each.letGo())));
      await Promise.all(
        instances().map((instance) => (stopWorkloads ? instance.suspend(closeGraceMs) : instance.letGo())),
      );
      observations.close();
      await lock.release();
    },
  };
}

function baseEnvironment(host: LocalRuntimeOptions["hostEnvironment"]): Record<string, string> {
  const base: Record<string, string> = { PATH: usualPath.join(delimiter), HOME: homedir(), LANG: "C.UTF-8" };
  for (const [name, value] of Object.entries(host ?? {})) {
    if (value !== undefined && inherited.test(name)) base[name] = value;
  }
  return base;
}
