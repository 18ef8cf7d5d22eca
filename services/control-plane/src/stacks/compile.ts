/**
 * A stack's services at one agent as a deployment's spec.
 *
 * K1: the same model, counts and stamps give the same bytes: rollouts compare
 *     digests to tell what has changed. So no revision's number is in a spec.
 * K2: what is not at this agent is left out, also from what others wait for.
 */
import { createHash } from "node:crypto";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { Healthcheck, Mount, Restart, Service, Stack as StackModel } from "@bowline/compose";
import {
  ContainerOptions_PullPolicy,
  type ContainerOptionsSchema,
  Dependency_Condition,
  type Deployment,
  Deployment_Desired,
  DeploymentSchema,
  type FileSchema,
  type HealthCheckSchema,
  type MountSchema,
  RestartPolicy,
  type VolumeSchema,
  type WorkloadSchema,
} from "@bowline/contract/deployments";

type Spec = Omit<Partial<Deployment>, "$typeName" | "$unknown">;
type Init<Schema extends Parameters<typeof create>[0]> = MessageInitShape<Schema>;

export interface CompileOptions {
  stack: string;
  desired: "RUNNING" | "STOPPED";
  /** By service. */
  stamps: Readonly<Record<string, string>>;
  /** By name, as `<secret id>/<version>`. */
  secretVersions: Readonly<Record<string, string>>;
  runTimeoutMs: number;
}

/** The name of a service, volume, network or file of a stack inside a deployment: a DNS label. */
export function innerName(name: string): string {
  if (/^[a-z][a-z0-9-]{0,62}$/.test(name)) return name;
  const plain = name.toLowerCase().replaceAll(/[^a-z0-9-]/g, "-");
  const mark = createHash("sha256").update(name).digest("hex").slice(0, 6); // two names may become the same plain one
  return `${/^[a-z]/.test(plain) ? "" : "s"}${plain}`.slice(0, 56) + `-${mark}`;
}

/** Names of the API's secrets that a model needs. */
export function secretNames(model: StackModel): string[] {
  return [...new Set(model.secrets.map((secret) => secretOf(model, secret.name)))].toSorted();
}

/** The API's secret that holds the value of a secret of the stack. */
export function secretOf(model: StackModel, name: string): string {
  const source = model.secrets.find((secret) => secret.name === name)?.source;
  return source?.kind === "external" ? source.name : innerName(`${model.name}-${name}`);
}

/** What one agent is to have: `counts` instances of each service. */
export function compileTarget(
  model: StackModel,
  counts: Readonly<Record<string, number>>,
  options: CompileOptions,
): Spec {
  const here = model.services.filter((service) => counts[service.name] !== undefined); // K2
  const names = new Set(here.map((service) => service.name));
  const files = new Map<string, Init<typeof FileSchema>>();
  const volumes = new Map<string, Init<typeof VolumeSchema>>();
  const workloads = here.map((service) => {
    const mounts = [
      ...service.mounts.map((mount, index) => mountOf(model, service, mount, index, volumes)),
      ...[...service.configs, ...service.secrets].map((mount): Init<typeof MountSchema> => {
        const file = fileOf(model, mount, service.secrets.includes(mount));
        files.set(file.name ?? "", file);
        return { source: { case: "file", value: file.name ?? "" }, path: mount.target, readOnly: true };
      }),
    ];
    return workloadOf(service, {
      mounts,
      count: counts[service.name] ?? 0,
      stamp: options.stamps[service.name],
      names,
    });
  });
  const networks = new Set(here.flatMap((service) => service.networks.map(({ network }) => network)));
  const wanted = new Set([...files.values()].flatMap(({ secret }) => secret ?? []));
  return create(DeploymentSchema, {
    desired: Deployment_Desired[options.desired],
    labels: { "bowline.stack": options.stack },
    runTimeout: durationFromMs(options.runTimeoutMs),
    workloads,
    volumes: [...volumes.values()],
    files: [...files.values()],
    networks: model.networks
      .filter(({ name }) => networks.has(name))
      .map(({ name, internal, externalName, driver }) => ({
        ...{ name: innerName(name), internal, driver: driver === "bridge" ? "" : driver },
        externalName: externalName ?? "",
      })),
    secretVersions: Object.fromEntries(
      [...wanted].toSorted().map((name) => [name, options.secretVersions[name] ?? ""]),
    ),
  });
}

/** Nothing of the stack is to be left at the agent; volumes go only if that is asked for. */
export function absentSpec(stack: string, removeVolumes: boolean, runTimeoutMs: number): Spec {
  return {
    desired: Deployment_Desired.ABSENT,
    labels: { "bowline.stack": stack },
    removeVolumes,
    runTimeout: durationFromMs(runTimeoutMs),
  };
}

/** Tells two specs apart, whatever their ids and generations (K1). */
export function digestOf(spec: Spec): string {
  return createHash("sha256")
    .update(toBinary(DeploymentSchema, create(DeploymentSchema, spec)))
    .digest("hex");
}

function workloadOf(
  service: Service,
  at: {
    mounts: Init<typeof MountSchema>[];
    count: number;
    stamp: string | undefined;
    names: ReadonlySet<string>;
  },
): Init<typeof WorkloadSchema> {
  const check = service.healthcheck === undefined ? undefined : healthCheckOf(service.healthcheck);
  return {
    name: innerName(service.name),
    image: service.image,
    command: [...(service.entrypoint ?? [])],
    args: [...(service.command ?? [])],
    environment: { ...service.environment },
    ports: service.ports.map((port) => ({
      name:
        port.name ??
        `${port.container}${port.protocol === "udp" ? "-udp" : ""}${port.published === 0 ? "" : `-${port.published}`}`,
      container: port.container,
      published: port.published,
      protocol: port.protocol,
      hostAddress: port.hostAddress,
    })),
    mounts: at.mounts,
    ...(check === undefined ? {} : { healthCheck: check }),
    resources: { cpuMillis: service.limits.cpuMillis ?? 0, memoryBytes: BigInt(service.limits.memoryBytes ?? 0) },
    count: at.count,
    restartPolicy: restartPolicyOf(service.restart),
    stopSignal: service.stopSignal ?? "",
    ...(service.stopGraceMs === undefined ? {} : { stopGrace: durationFromMs(service.stopGraceMs) }),
    dependsOn: service.dependsOn
      .filter((dependency) => at.names.has(dependency.service)) // K2
      .map(({ service: name, condition }) => ({
        workload: innerName(name),
        condition: Dependency_Condition[conditions[condition]],
      })),
    restartStamp: at.stamp ?? "",
    ...(service.job ? { runToCompletion: { retries: service.restart.maxAttempts ?? 0 } } : {}),
    workingDir: service.workingDir ?? "",
    labels: { ...service.labels },
    networks: service.networks.map(({ network, aliases }) => ({
      network: innerName(network),
      aliases: [...new Set([service.name, ...aliases])],
    })),
    ...containerOf(service),
  };
}

const conditions = { started: "STARTED", healthy: "HEALTHY", completed: "COMPLETED" } as const;

function restartPolicyOf({ policy }: Restart): RestartPolicy {
  switch (policy) {
    case "always":
      return RestartPolicy.ALWAYS;
    case "on-failure":
      return RestartPolicy.ON_FAILURE;
    case "never":
      return RestartPolicy.NEVER;
    default:
      return policy satisfies never;
  }
}

const pullPolicies = {
  missing: ContainerOptions_PullPolicy.MISSING,
  always: ContainerOptions_PullPolicy.ALWAYS,
  never: ContainerOptions_PullPolicy.NEVER,
} as const;

/** Left out where nothing of it is set, so that runtimes without containers take the service too. */
function containerOf(service: Service): { container?: Init<typeof ContainerOptionsSchema> } {
  const container: Init<typeof ContainerOptionsSchema> = {
    ...(service.pullPolicy === undefined ? {} : { pullPolicy: pullPolicies[service.pullPolicy] }),
    platform: service.platform ?? "",
    user: service.user ?? "",
    groups: [...service.groups],
    readOnly: service.readOnly,
    init: service.init,
    tty: service.tty,
    stdinOpen: service.stdinOpen,
    hostname: service.hostname ?? "",
    domainname: service.domainname ?? "",
    extraHosts: [...service.extraHosts],
    dns: [...service.dns],
    dnsSearch: [...service.dnsSearch],
    dnsOptions: [...service.dnsOptions],
    ulimits: Object.fromEntries(
      Object.entries(service.ulimits).map(([name, { soft, hard }]) => [
        name,
        { soft: BigInt(soft), hard: BigInt(hard) },
      ]),
    ),
    shmBytes: BigInt(service.shmBytes ?? 0),
    sysctls: { ...service.sysctls },
    pidsLimit: service.limits.pids ?? 0,
    memoryReservationBytes: BigInt(service.reservations.memoryBytes ?? 0),
    capDrop: [...service.capDrop],
    capAdd: [...service.capAdd],
    privileged: service.privileged,
    devices: [...service.devices],
    securityOptions: [...service.securityOptions],
    networkMode: service.networkMode ?? "",
    pidMode: service.pid ?? "",
    ipcMode: service.ipc ?? "",
    utsMode: service.uts ?? "",
    usernsMode: service.userns ?? "",
    cgroupParent: service.cgroupParent ?? "",
    logDriver: service.logging?.driver ?? "",
    logOptions: { ...service.logging?.options },
    maxRestarts: service.restart.policy === "on-failure" ? (service.restart.maxAttempts ?? 0) : 0,
  };
  const isSet = Object.values(container).some((value) =>
    typeof value === "object" ? Object.keys(value).length > 0 : Boolean(value),
  );
  return isSet ? { container } : {};
}

function healthCheckOf(check: Healthcheck): Init<typeof HealthCheckSchema> {
  if (check.disabled) return { disabled: true };
  const command =
    check.test === undefined
      ? []
      : check.test.shell
        ? ["/bin/sh", "-c", ...check.test.command]
        : [...check.test.command];
  return {
    ...(check.test === undefined ? {} : { probe: { case: "exec", value: { command } } }),
    ...(check.intervalMs === undefined ? {} : { interval: durationFromMs(check.intervalMs) }),
    ...(check.timeoutMs === undefined ? {} : { timeout: durationFromMs(check.timeoutMs) }),
    retries: check.retries ?? 0,
    ...(check.startPeriodMs === undefined ? {} : { startPeriod: durationFromMs(check.startPeriodMs) }),
  };
}

function mountOf(
  model: StackModel,
  service: Service,
  mount: Mount,
  index: number,
  volumes: Map<string, Init<typeof VolumeSchema>>,
): Init<typeof MountSchema> {
  switch (mount.kind) {
    case "volume": {
      const name = innerName(mount.volume === "" ? `${service.name}-${index}` : mount.volume);
      const known = model.volumes.find((volume) => volume.name === mount.volume);
      volumes.set(name, {
        name,
        keep: mount.volume !== "", // one without a name is of the container, as the specification has it
        externalName: known?.externalName ?? "",
        driver: known === undefined || known.driver === "local" ? "" : known.driver,
        driverOptions: { ...known?.driverOptions },
      });
      return { source: { case: "volume", value: name }, path: mount.target, readOnly: mount.readOnly };
    }
    case "bind":
      return {
        source: { case: "hostPath", value: mount.source },
        path: mount.target,
        readOnly: mount.readOnly,
        createHostPath: mount.createHostPath,
      };
    case "tmpfs":
      return {
        source: { case: "tmpfs", value: { sizeBytes: BigInt(mount.sizeBytes ?? 0), mode: mount.mode ?? 0 } },
        path: mount.target,
      };
    default:
      return mount satisfies never;
  }
}

function fileOf(model: StackModel, mount: Service["configs"][number], isSecret: boolean): Init<typeof FileSchema> {
  const owner = { mode: mount.mode ?? 0, uid: mount.uid ?? "", gid: mount.gid ?? "" };
  const mark =
    mount.mode === undefined && mount.uid === undefined && mount.gid === undefined
      ? ""
      : `-${mount.mode ?? ""}-${mount.uid ?? ""}-${mount.gid ?? ""}`;
  if (isSecret)
    return { name: innerName(`secret-${mount.source}${mark}`), secret: secretOf(model, mount.source), ...owner };
  const source = model.configs.find((config) => config.name === mount.source)?.source;
  const content = source?.kind === "given" ? Buffer.from(source.content, source.encoding) : Buffer.alloc(0);
  return { name: innerName(`config-${mount.source}${mark}`), content: new Uint8Array(content), ...owner };
}
