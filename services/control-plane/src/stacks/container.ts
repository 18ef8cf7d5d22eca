/** How a service's instances are run, as a workload says it. */
import type { create, MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { Healthcheck, Restart, Service } from "@bowline/compose";
import {
  ContainerOptions_PullPolicy,
  type ContainerOptionsSchema,
  type HealthCheckSchema,
  RestartPolicy,
} from "@bowline/contract/deployments";

type Init<Schema extends Parameters<typeof create>[0]> = MessageInitShape<Schema>;

export function restartPolicyOf({ policy }: Restart): RestartPolicy {
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
export function containerOf(service: Service): { container?: Init<typeof ContainerOptionsSchema> } {
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

/** The Compose specification's, which are longer than the contract's: what is well under Compose is well here. */
const checkDefaults = { intervalMs: 30_000, timeoutMs: 30_000, retries: 3 };

export function healthCheckOf(check: Healthcheck): Init<typeof HealthCheckSchema> {
  if (check.disabled) return { disabled: true };
  // Without a test of its own the times are the image's.
  const { intervalMs, timeoutMs, retries } = { ...(check.test === undefined ? {} : checkDefaults), ...check };
  const command =
    check.test === undefined
      ? []
      : check.test.shell
        ? ["/bin/sh", "-c", ...check.test.command]
        : [...check.test.command];
  return {
    ...(check.test === undefined ? {} : { probe: { case: "exec", value: { command } } }),
    ...(intervalMs === undefined ? {} : { interval: durationFromMs(intervalMs) }),
    ...(timeoutMs === undefined ? {} : { timeout: durationFromMs(timeoutMs) }),
    retries: retries ?? 0,
    ...(check.startPeriodMs === undefined ? {} : { startPeriod: durationFromMs(check.startPeriodMs) }),
  };
}
