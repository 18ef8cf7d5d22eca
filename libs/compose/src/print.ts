/**
 * The model as a Compose file: every setting in its long form, sorted, with
 * variables replaced and files merged. Reading it again gives the same model.
 * Secrets' contents are left out.
 */
import { stringify } from "yaml";
import type {
  Amounts,
  Config,
  FileMount,
  Healthcheck,
  Mount,
  Network,
  RolloutSettings,
  Service,
  Stack,
  Volume,
} from "./model.ts";

/** What stands in the place of a secret's file. */
export const NOT_SHOWN = "not-shown";

/** YAML of a stack. */
export function printStack(stack: Stack): string {
  const whole = tidy({
    name: stack.name,
    services: byName(stack.services, printService),
    networks: byName(stack.networks, printNetwork),
    volumes: byName(stack.volumes, printVolume),
    secrets: byName(stack.secrets, ({ source }) =>
      source.kind === "external" ? { external: true, name: source.name } : { file: NOT_SHOWN },
    ),
    configs: byName(stack.configs, printConfig),
  });
  // Core schema, no anchors: an alias would say less than the value.
  return stringify(whole, { aliasDuplicateObjects: false, lineWidth: 0, version: "1.2" });
}

function byName<T extends { readonly name: string }>(
  list: readonly T[],
  print: (one: T) => object,
): Record<string, object> {
  return Object.fromEntries(list.map((one) => [one.name, print(one)]));
}

/** Without what is not set or empty, and with dollars that interpolation leaves alone. */
function tidy(value: unknown): unknown {
  if (typeof value === "string") return value.replaceAll("$", "$$$$");
  if (value instanceof Kept) return tidy(value.value);
  if (Array.isArray(value)) return value.map(tidy);
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value)
    .filter(([, field]) => !isEmpty(field))
    .map(([key, field]) => [key, field instanceof Kept, tidy(field)] as const)
    .filter(([, isKept, field]) => isKept || !isEmpty(field));
  return Object.fromEntries(kept.map(([key, , field]) => [key, field]));
}

/** An empty command or mapping of a resource says something; others do not. */
class Kept {
  readonly value: unknown;
  constructor(value: unknown) {
    this.value = value;
  }
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === false) return true;
  if (value instanceof Kept) return value.value === undefined;
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

function duration(ms: number | undefined): string | undefined {
  return ms === undefined ? undefined : `${ms}ms`;
}

function octal(mode: number | undefined): string | undefined {
  return mode === undefined ? undefined : `0${mode.toString(8)}`;
}

function printService(service: Service): object {
  const { networkMode, healthcheck } = service;
  return {
    image: service.image,
    platform: service.platform,
    pull_policy: service.pullPolicy,
    entrypoint: kept(service.entrypoint),
    command: kept(service.command),
    environment: kept(nonEmpty(service.environment)),
    ports: service.ports.map((port) => ({
      name: port.name,
      target: port.container,
      published: port.published === 0 ? undefined : String(port.published),
      host_ip: port.hostAddress === "" ? undefined : port.hostAddress,
      protocol: port.protocol,
    })),
    expose: service.expose.map(({ container, protocol }) => `${container}/${protocol}`),
    volumes: service.mounts.map(printMount),
    secrets: service.secrets.map(printFile),
    configs: service.configs.map(printFile),
    networks:
      networkMode === undefined
        ? Object.fromEntries(
            service.networks.map(({ network, aliases }) => [network, aliases.length === 0 ? null : { aliases }]),
          )
        : undefined,
    network_mode: networkMode,
    depends_on: Object.fromEntries(
      service.dependsOn.map(({ service: name, condition }) => [name, { condition: conditions[condition] }]),
    ),
    healthcheck: healthcheck === undefined ? undefined : kept(printHealth(healthcheck)),
    labels: kept(nonEmpty(service.labels)),
    logging:
      service.logging === undefined
        ? undefined
        : { driver: service.logging.driver, options: kept(nonEmpty(service.logging.options)) },
    stop_signal: service.stopSignal,
    stop_grace_period: duration(service.stopGraceMs),
    user: service.user,
    group_add: service.groups,
    working_dir: service.workingDir,
    read_only: service.readOnly,
    init: service.init,
    tty: service.tty,
    stdin_open: service.stdinOpen,
    hostname: service.hostname,
    domainname: service.domainname,
    extra_hosts: service.extraHosts,
    dns: service.dns,
    dns_search: service.dnsSearch,
    dns_opt: service.dnsOptions,
    ulimits: service.ulimits,
    shm_size: service.shmBytes,
    sysctls: service.sysctls,
    cap_add: service.capAdd,
    cap_drop: service.capDrop,
    privileged: service.privileged,
    devices: service.devices,
    security_opt: service.securityOptions,
    cgroup_parent: service.cgroupParent,
    pid: service.pid,
    ipc: service.ipc,
    uts: service.uts,
    userns_mode: service.userns,
    deploy: printDeploy(service),
  };
}

const conditions = {
  started: "service_started",
  healthy: "service_healthy",
  completed: "service_completed_successfully",
} as const;

function kept(value: unknown): unknown {
  return value === undefined ? undefined : new Kept(value);
}

function nonEmpty<T extends object>(record: T): T | undefined {
  return Object.keys(record).length === 0 ? undefined : record;
}

function printDeploy(service: Service): object {
  const { restart, constraints } = service;
  const subjects = {
    hostname: "node.hostname",
    "platform.os": "node.platform.os",
    "platform.arch": "node.platform.arch",
  };
  return {
    mode: `${service.mode}${service.job ? "-job" : ""}`,
    replicas: service.replicas,
    resources: { limits: printAmounts(service.limits), reservations: printAmounts(service.reservations) },
    update_config: printRollout(service.update),
    restart_policy: {
      condition: { always: "any", "on-failure": "on-failure", never: "none" }[restart.policy],
      max_attempts: restart.maxAttempts,
    },
    placement: {
      constraints: constraints.map(
        ({ kind, label, operator, value }) =>
          `${kind === "label" ? `node.labels.${label}` : subjects[kind]} ${operator} ${value}`,
      ),
      max_replicas_per_node: service.maxReplicasPerAgent,
    },
  };
}

function printAmounts({ cpuMillis, memoryBytes, pids }: Amounts): object {
  return {
    cpus: cpuMillis === undefined ? undefined : String(cpuMillis / 1000),
    memory: memoryBytes === undefined ? undefined : String(memoryBytes),
    pids,
  };
}

function printRollout(settings: RolloutSettings | undefined): object | undefined {
  if (settings === undefined) return undefined;
  return {
    parallelism: settings.parallelism,
    delay: duration(settings.delayMs),
    order: settings.order,
  };
}

function printHealth(check: Healthcheck): object {
  if (check.disabled) return { disable: true };
  return {
    test: check.test === undefined ? undefined : [check.test.shell ? "CMD-SHELL" : "CMD", ...check.test.command],
    interval: duration(check.intervalMs),
    timeout: duration(check.timeoutMs),
    retries: check.retries,
    start_period: duration(check.startPeriodMs),
  };
}

function printMount(mount: Mount): object {
  if (mount.kind === "tmpfs")
    return { type: "tmpfs", target: mount.target, tmpfs: { size: mount.sizeBytes, mode: octal(mount.mode) } };
  const common = { type: mount.kind, target: mount.target, read_only: mount.readOnly };
  if (mount.kind === "bind")
    return {
      ...common,
      source: mount.source,
      bind: mount.createHostPath ? undefined : kept({ create_host_path: "false" }),
    };
  return { ...common, source: mount.volume === "" ? undefined : mount.volume };
}

function printFile({ source, target, uid, gid, mode }: FileMount): object {
  return { source, target, uid, gid, mode: octal(mode) };
}

function printNetwork({ externalName, driver, internal }: Network): object {
  if (externalName !== undefined) return new Kept({ external: true, name: externalName });
  return new Kept({ driver, internal });
}

function printVolume({ externalName, driver, driverOptions }: Volume): object {
  if (externalName !== undefined) return new Kept({ external: true, name: externalName });
  return new Kept({ driver, driver_opts: driverOptions });
}

function printConfig({ source }: Config): object {
  return new Kept(source.encoding === "utf8" ? { content: source.content } : { file: NOT_SHOWN });
}
