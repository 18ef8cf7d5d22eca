/**
 * A stack's services at one agent as a deployment's spec.
 *
 * K1: the same model, counts and stamps give the same bytes: rollouts compare
 *     digests to tell what has changed. So no revision's number is in a spec.
 * K2: what is not at this agent is left out, also from what others wait for.
 * K3: what has no name of its own in the files is named with a slash, which no
 *     name there has: innerName makes a digest of it, so that nothing else is it.
 */
import { createHash } from "node:crypto";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { Mount, Service, Stack as StackModel } from "@bowline/compose";
import {
  Dependency_Condition,
  type Deployment,
  Deployment_Desired,
  DeploymentSchema,
  type FileSchema,
  type ForwardSchema,
  type MountSchema,
  type PortSchema,
  type UpdateConfigSchema,
  type VolumeSchema,
  type WorkloadSchema,
} from "@bowline/contract/deployments";
import { colouredName, type Colours, innerName, workloadName } from "./colours.ts";
import { containerOf, healthCheckOf, restartPolicyOf } from "./container.ts";
import { secretOf } from "./stack-secrets.ts";

export type Spec = Omit<Partial<Deployment>, "$typeName" | "$unknown">;
type Init<Schema extends Parameters<typeof create>[0]> = MessageInitShape<Schema>;

export interface CompileOptions {
  stack: string;
  desired: "RUNNING" | "STOPPED";
  /** By service. */
  stamps: Readonly<Record<string, string>>;
  /** By name, as `<secret id>/<version>`. */
  secretVersions: Readonly<Record<string, string>>;
  runTimeoutMs: number;
  /** Of the workloads. */
  colours: Colours;
  /** Whether a service's published ports are held by a forwarder. */
  forwards: (service: Service) => boolean;
  /** How instances of a service are replaced; undefined: as the agent does by itself. */
  update: (service: Service) => Init<typeof UpdateConfigSchema> | undefined;
}

/** What one agent is to have: `counts` instances of each service. */
export function compileTarget(
  model: StackModel,
  counts: Readonly<Record<string, number>>,
  options: CompileOptions,
): Spec {
  const here = model.services.filter((service) => counts[service.name] !== undefined); // K2
  const names = new Set(here.map((service) => service.name));
  const { colours } = options;
  const files = new Map<string, Init<typeof FileSchema>>();
  const versions: Record<string, string> = {};
  const volumes = new Map<string, Init<typeof VolumeSchema>>();
  const workloads = here.map((service) => {
    const mounts = [
      ...service.mounts.map((mount, index) => mountOf(model, service, mount, { index, volumes, colours })),
      ...[...service.configs, ...service.secrets].map((mount): Init<typeof MountSchema> => {
        const file = fileOf(model, mount, service.secrets.includes(mount));
        if (file.secret !== undefined) {
          // By colour too, so that either side keeps the value that it was made with.
          const secret = colouredName(file.secret, service.name, colours);
          versions[secret] = options.secretVersions[file.secret] ?? "";
          file.secret = secret;
        }
        file.name = colouredName(file.name ?? "", service.name, colours);
        files.set(file.name, file);
        return { source: { case: "file", value: file.name }, path: mount.target, readOnly: true };
      }),
    ];
    return workloadOf(service, {
      mounts,
      count: counts[service.name] ?? 0,
      stamp: options.stamps[service.name],
      names,
      options,
    });
  });
  const networks = new Set(here.flatMap((service) => service.networks.map(({ network }) => network)));
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
    forwards: here.filter(options.forwards).flatMap((service) => forwardsOf(service, colours)),
    secretVersions: Object.fromEntries(Object.entries(versions).toSorted(([a], [b]) => (a < b ? -1 : 1))),
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

/** Tells two specs apart, whatever their ids and generations (K1), and whatever is asked of what is new. */
export function digestOf(spec: Spec): string {
  return createHash("sha256")
    .update(toBinary(DeploymentSchema, create(DeploymentSchema, { ...spec, gates: [] })))
    .digest("hex");
}

function workloadOf(
  service: Service,
  at: {
    mounts: Init<typeof MountSchema>[];
    count: number;
    stamp: string | undefined;
    names: ReadonlySet<string>;
    options: CompileOptions;
  },
): Init<typeof WorkloadSchema> {
  const { colours } = at.options;
  const isForwarded = at.options.forwards(service);
  const update = at.options.update(service);
  const check = service.healthcheck === undefined ? undefined : healthCheckOf(service.healthcheck);
  return {
    name: workloadName(service.name, colours),
    service: service.name,
    image: service.image,
    command: [...(service.entrypoint ?? [])],
    args: [...(service.command ?? [])],
    environment: { ...service.environment },
    ports: isForwarded ? innerPorts(service) : publishedPorts(service),
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
        workload: workloadName(name, colours),
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
    ...(update === undefined ? {} : { update }),
    ...containerOf(service),
  };
}

type PublishedPort = Service["ports"][number];

function publishedPort(port: PublishedPort): Init<typeof PortSchema> {
  const number = port.published === 0 ? "" : `-${port.published}`;
  const { container, published, protocol, hostAddress } = port;
  return { name: port.name ?? `${innerPort(port)}${number}`, container, published, protocol, hostAddress };
}

/** With those that are only exposed, unless they are published: what asks an instance may use them. */
function publishedPorts(service: Service): Init<typeof PortSchema>[] {
  const hidden = service.expose.filter(
    ({ container, protocol }) =>
      !service.ports.some((port) => port.container === container && port.protocol === protocol),
  );
  return [
    ...service.ports.map(publishedPort),
    ...hidden.map((port) => ({ name: innerPort(port), container: port.container, protocol: port.protocol })),
  ];
}

/** One for each port inside, whatever forwards lead to it: what is published may change without the workload. */
function innerPorts(service: Service): Init<typeof PortSchema>[] {
  const ports = new Map([...service.ports, ...service.expose].map((port) => [innerPort(port), port] as const));
  return [...ports].map(([name, { container, protocol }]) => ({ name, container, protocol }));
}

function innerPort({ container, protocol }: Pick<PublishedPort, "container" | "protocol">): string {
  return `${container}${protocol === "udp" ? "-udp" : ""}`;
}

/** Named alike in both colours: the same port of the host, whoever is behind it. */
function forwardsOf(service: Service, colours: Colours): Init<typeof ForwardSchema>[] {
  return service.ports.map((port) => ({
    ...{ name: innerName(`${service.name}-${publishedPort(port).name ?? ""}`), published: port.published },
    ...{ hostAddress: port.hostAddress, protocol: port.protocol },
    backends: [{ workload: workloadName(service.name, colours), port: innerPort(port), weight: 1 }],
  }));
}

const conditions = { started: "STARTED", healthy: "HEALTHY", completed: "COMPLETED" } as const;

function mountOf(
  model: StackModel,
  service: Service,
  mount: Mount,
  at: { index: number; volumes: Map<string, Init<typeof VolumeSchema>>; colours: Colours },
): Init<typeof MountSchema> {
  switch (mount.kind) {
    case "volume": {
      const name =
        mount.volume === "" // K3
          ? colouredName(`${service.name}/${at.index}`, service.name, at.colours)
          : innerName(mount.volume);
      const known = model.volumes.find((volume) => volume.name === mount.volume);
      at.volumes.set(name, {
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
      : `/${mount.mode ?? ""}/${mount.uid ?? ""}/${mount.gid ?? ""}`; // K3
  if (isSecret)
    return { name: innerName(`secret-${mount.source}${mark}`), secret: secretOf(model, mount.source), ...owner };
  const source = model.configs.find((config) => config.name === mount.source)?.source;
  if (source === undefined) throw new Error(`the model has no config ${mount.source}`);
  const content = Buffer.from(source.content, source.encoding);
  return { name: innerName(`config-${mount.source}${mark}`), content: new Uint8Array(content), ...owner };
}
