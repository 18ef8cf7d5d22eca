/**
 * Workloads as containers: what the spec may ask for here, and what the engine
 * is told.
 */
import type { AssignedPort, Opened } from "@bowline/agent-core/runtimes";
import {
  chooseFree,
  checkSpec,
  instanceCount,
  invalid,
  isJob,
  milliseconds,
  mountTarget,
  portName,
  secretText,
  stopGraceMs,
  stopSignal,
  unsupported,
} from "@bowline/agent-core/runtimes";
import { RestartPolicy } from "@bowline/contract/deployments";
import type { Deployment, Port, Workload, WorkloadJson } from "@bowline/contract/deployments";
import { rightsOfVolume } from "@bowline/kernel";
import { fitsArchive } from "./archive.ts";
import type { MemoryFile } from "./memory.ts";
import { containerName, labels, specLabels, workloadLabels } from "./labels.ts";
import { containerSettings, hostSettings } from "./options.ts";
import { type Joined, networksOf, volumeName } from "./places.ts";

/** One instance as it is to run; kept in its deployment's record. */
export interface Definition {
  /** Names it, unique in the deployment. */
  slot: string;
  deploymentId: string;
  workload: WorkloadJson;
  /** 0-based. */
  index: number;
  digest: string;
  ports: AssignedPort[];
  /** What is to be in memory, where the agent has one with the engine in common. */
  memoryFiles?: MemoryFile[];
}

/** Where a port of the host is published when the spec does not say. As the contract says of runtimes but the local one. */
const defaultAddress = "0.0.0.0";

/** What the contract promises where a health check says nothing. */
const healthDefaults = { intervalMs: 10_000, timeoutMs: 5_000, retries: 3 };

const nanosecondsPerMs = 1_000_000;

/** The number on the host that a spec asks for; a port that is not published has none. */
export function hostPort(port: Port): number | undefined {
  return port.published === undefined || port.published === 0 ? undefined : port.published;
}

/** Throws a refusal for the first thing that the spec says wrong, or that this runtime may not do. */
export function checkDockerSpec(spec: Deployment, allowHostPaths: boolean, forwards: boolean): void {
  checkSpec(spec, hostPort, { forwards, volumesInVolumes: true });
  for (const { name, storageClass, sizeBytes, externalName, driver, driverOptions } of spec.volumes) {
    const wants = externalName === "" ? rightsOfVolume(driver, driverOptions) : [];
    const path = wants.find(({ right }) => right === "host-paths");
    if (path !== undefined && !allowHostPaths)
      throw unsupported(`volume ${name}: paths of the host are not allowed (${path.value})`);
    if (storageClass !== "") throw unsupported(`volume ${name}: the Docker runtime has no storage classes`);
    if (sizeBytes > 0n) throw unsupported(`volume ${name}: the Docker runtime cannot bound a volume's size`);
  }
  for (const workload of spec.workloads) {
    const { name, image, mounts, ports } = workload;
    if (image === "") throw invalid(`workload ${name}: it names no image`);
    if (instanceCount(workload) > 0 && ports.some(({ container }) => container === 0))
      throw invalid(`workload ${name}: a port of a container has a number`);
    for (const { source, path, createHostPath } of mounts) {
      if (source.case === "hostPath" && !allowHostPaths)
        throw unsupported(`workload ${name}: paths of the host are not allowed (${source.value})`);
      if (source.case === "hostPath" && createHostPath && (source.value + path).includes(":"))
        throw unsupported(`workload ${name}: a path of the host that is to be made has a colon (${source.value})`);
      if (source.case === "file" && !fitsArchive(path))
        throw unsupported(`workload ${name}: the path ${path} of a file is too long`);
    }
  }
}

/** Numbers on the host: those of the spec, else free ones; 0 where a port is not published. */
export async function assignPorts(
  workload: Workload,
  inherited: readonly AssignedPort[],
  reserved: (port: number) => boolean,
): Promise<AssignedPort[]> {
  const assigned: AssignedPort[] = [];
  for (const port of workload.ports) {
    const protocol = port.protocol === "udp" ? "udp" : "tcp";
    const address = port.hostAddress === "" ? defaultAddress : port.hostAddress;
    const common = { name: portName(port), container: port.container, address, protocol } as const;
    if (port.published !== 0) {
      assigned.push({ ...common, published: port.published ?? 0, dynamic: false });
      continue;
    }
    const before = inherited.find((earlier) => earlier.dynamic && earlier.name === common.name);
    const taken = (number: number): boolean =>
      reserved(number) || assigned.some(({ published }) => published === number);
    const published = before?.published ?? (await chooseFree(address, protocol, taken));
    assigned.push({ ...common, published, dynamic: true });
  }
  return assigned;
}

/** A container as the engine makes it. `secrets` are in clear text, by name; the engine keeps them with the container. */
export function containerOf(
  definition: Definition,
  workload: Workload,
  spec: Pick<Deployment, "id" | "generation" | "labels" | "networks" | "volumes">,
  given: { agent: string; installation: string; secrets: Opened; memoryMounts: object[] | undefined; logBytes: number },
): { name: string; networks: Joined[]; body: object } {
  const { agent, installation, secrets, logBytes } = given;
  const own = workload.container?.networkMode ?? "";
  const networks = own === "" ? networksOf(agent, spec, workload) : [];
  const environment = {
    ...portVariables(definition.ports),
    ...workload.environment,
    ...Object.fromEntries(workload.secrets.map(({ variable, secret }) => [variable, secretText(secrets, secret)])),
  };
  const [first] = networks;
  return {
    name: containerName(agent, spec, definition.slot),
    networks,
    body: {
      Image: workload.image,
      ...(workload.command.length === 0 ? {} : { Entrypoint: workload.command }),
      ...(workload.args.length === 0 && workload.command.length === 0 ? {} : { Cmd: workload.args }),
      Env: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
      ...(workload.workingDir === "" ? {} : { WorkingDir: workload.workingDir }),
      StopSignal: stopSignal(workload),
      StopTimeout: stopSeconds(workload),
      ...healthCheckOf(workload),
      ExposedPorts: Object.fromEntries(definition.ports.map((port) => [key(port), {}])),
      ...containerSettings(workload),
      Labels: {
        ...workloadLabels(workload),
        ...specLabels(spec),
        [labels.agent]: agent,
        [labels.installation]: installation,
        [labels.deployment]: spec.id,
        [labels.generation]: String(spec.generation),
        [labels.workload]: workload.name,
        [labels.service]: workload.service || workload.name,
        [labels.index]: String(definition.index),
        [labels.slot]: definition.slot,
        [labels.digest]: definition.digest,
      },
      HostConfig: {
        ...hostSettings(workload, logBytes),
        NetworkMode: first?.network ?? own,
        PortBindings: Object.fromEntries(
          definition.ports
            .filter(({ published }) => published !== 0)
            .map((port) => [key(port), [{ HostIp: port.address, HostPort: String(port.published) }]]),
        ),
        Mounts: [...mountsOf(workload, spec, agent), ...(given.memoryMounts ?? [])],
        Binds: bindsOf(workload),
        RestartPolicy: restartPolicyOf(workload),
        NanoCpus: (workload.resources?.cpuMillis ?? 0) * nanosecondsPerMs,
        Memory: Number(workload.resources?.memoryBytes ?? 0n),
      },
      NetworkingConfig: {
        EndpointsConfig: first === undefined ? {} : { [first.network]: { Aliases: first.aliases } },
      },
    },
  };
}

/** Whole seconds, as the engine takes them; a grace below one is one, not none. */
export function stopSeconds(workload: Workload): number {
  return Math.ceil(stopGraceMs(workload) / 1000);
}

/** Whether the engine starts it again after an end with this code. */
export function startsAgain(workload: Workload, exitCode: number, restarts: number): boolean {
  const { Name, MaximumRetryCount } = restartPolicyOf(workload);
  if (Name === "no") return false;
  if (Name === "unless-stopped") return true;
  return exitCode !== 0 && (MaximumRetryCount === 0 || restarts < MaximumRetryCount);
}

function restartPolicyOf(workload: Workload): { Name: string; MaximumRetryCount: number } {
  const retries = workload.runToCompletion?.retries ?? 0;
  if (isJob(workload)) return { Name: retries === 0 ? "no" : "on-failure", MaximumRetryCount: retries };
  switch (workload.restartPolicy) {
    case RestartPolicy.NEVER:
      return { Name: "no", MaximumRetryCount: 0 };
    case RestartPolicy.ON_FAILURE:
      return { Name: "on-failure", MaximumRetryCount: workload.container?.maxRestarts ?? 0 };
    default:
      return { Name: "unless-stopped", MaximumRetryCount: 0 };
  }
}

/**
 * Commands are the engine's to run; connections are the agent's (health.ts), instead of the image's own check.
 * That one counts where the spec says nothing, and with the spec's times where it only says those.
 */
function healthCheckOf({ healthCheck }: Workload): object {
  if (healthCheck === undefined) return {};
  const { disabled, probe } = healthCheck;
  if (disabled || probe.case === "http" || probe.case === "tcp") return { Healthcheck: { Test: ["NONE"] } };
  const nanoseconds = (ms: number): number => Math.round(ms * nanosecondsPerMs);
  // The engine takes what is zero or missing from the image's own check.
  if (probe.case === undefined)
    return {
      Healthcheck: {
        Interval: nanoseconds(milliseconds(healthCheck.interval) ?? 0),
        Timeout: nanoseconds(milliseconds(healthCheck.timeout) ?? 0),
        Retries: healthCheck.retries,
        StartPeriod: nanoseconds(milliseconds(healthCheck.startPeriod) ?? 0),
      },
    };
  return {
    Healthcheck: {
      Test: ["CMD", ...probe.value.command],
      Interval: nanoseconds(milliseconds(healthCheck.interval) || healthDefaults.intervalMs),
      Timeout: nanoseconds(milliseconds(healthCheck.timeout) || healthDefaults.timeoutMs),
      Retries: healthCheck.retries || healthDefaults.retries,
      StartPeriod: nanoseconds(milliseconds(healthCheck.startPeriod) ?? 0),
    },
  };
}

function mountsOf(workload: Workload, spec: Pick<Deployment, "id" | "volumes">, agent: string): object[] {
  return workload.mounts.flatMap(({ source, path, readOnly, createHostPath }): object[] => {
    const Target = `/${mountTarget(path) ?? ""}`;
    if (source.case === "hostPath")
      return createHostPath ? [] : [{ Type: "bind", Source: source.value, Target, ReadOnly: readOnly }];
    if (source.case === "tmpfs") {
      const { sizeBytes, mode } = source.value;
      const TmpfsOptions = {
        ...(sizeBytes > 0n ? { SizeBytes: Number(sizeBytes) } : {}),
        ...(mode > 0 ? { Mode: mode } : {}),
      };
      return [{ Type: "tmpfs", Target, TmpfsOptions }];
    }
    if (source.case !== "volume") return []; // files are put into the container (archive.ts)
    const external = spec.volumes.find(({ name }) => name === source.value)?.externalName ?? "";
    const Source = external === "" ? volumeName(agent, spec.id, source.value) : external;
    return [{ Type: "volume", Source, Target, ReadOnly: readOnly }];
  });
}

/** Host paths that are made where they are missing: engines before 23 do that in this older form only. */
function bindsOf({ mounts }: Workload): string[] {
  return mounts.flatMap(({ source, path, readOnly, createHostPath }) =>
    source.case === "hostPath" && createHostPath
      ? [`${source.value}:/${mountTarget(path) ?? ""}${readOnly ? ":ro" : ""}`]
      : [],
  );
}

/** `PORT` for the first, `BOWLINE_PORT_<NAME>` for each: the numbers inside, as the local runtime tells its own. */
function portVariables(ports: readonly AssignedPort[]): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const [index, port] of ports.entries()) {
    if (index === 0) variables["PORT"] = String(port.container);
    variables[`BOWLINE_PORT_${port.name.toUpperCase().replaceAll(/[^A-Z0-9]/g, "_")}`] = String(port.container);
  }
  return variables;
}

const key = ({ container, protocol }: AssignedPort): string => `${container}/${protocol}`;
