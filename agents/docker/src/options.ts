/** What only containers have, in the engine's words. Whether it may was decided by the cluster's policy. */
import type { ContainerOptions, Workload } from "@bowline/contract/deployments";

/** Fields of a container's own configuration. */
export function containerSettings({ container }: Workload): object {
  if (container === undefined) return {};
  return {
    ...text("User", container.user),
    ...text("Hostname", container.hostname),
    ...text("Domainname", container.domainname),
    Tty: container.tty,
    OpenStdin: container.stdinOpen,
  };
}

/** Fields of its host configuration. `logBytes`: how much of its output is kept, where the spec says nothing. */
export function hostSettings({ container }: Workload, logBytes: number): object {
  if (container === undefined) return { LogConfig: logOf({ logDriver: "", logOptions: {} }, logBytes) };
  return {
    LogConfig: logOf(container, logBytes),
    ...text("PidMode", container.pidMode),
    ...text("IpcMode", container.ipcMode),
    ...text("UTSMode", container.utsMode),
    ...text("UsernsMode", container.usernsMode),
    ...text("CgroupParent", container.cgroupParent),
    Privileged: container.privileged,
    ReadonlyRootfs: container.readOnly,
    Init: container.init,
    GroupAdd: container.groups,
    ExtraHosts: container.extraHosts.map((entry) => entry.replace("=", ":")),
    Dns: container.dns,
    DnsSearch: container.dnsSearch,
    DnsOptions: container.dnsOptions,
    CapAdd: container.capAdd,
    CapDrop: container.capDrop,
    SecurityOpt: container.securityOptions,
    Sysctls: container.sysctls,
    Devices: container.devices.map(deviceOf),
    Ulimits: Object.entries(container.ulimits).map(([Name, { soft, hard }]) => ({
      ...{ Name, Soft: Number(soft), Hard: Number(hard) },
    })),
    ...(container.shmBytes > 0n ? { ShmSize: Number(container.shmBytes) } : {}),
    ...(container.pidsLimit > 0 ? { PidsLimit: container.pidsLimit } : {}),
    ...(container.memoryReservationBytes > 0n ? { MemoryReservation: Number(container.memoryReservationBytes) } : {}),
  };
}

/** Drivers that keep output on the host and take these bounds; others would refuse them. */
const boundedDrivers = ["json-file", "local"];

/** The spec's word counts; what it says nothing of is bounded all the same. */
function logOf({ logDriver, logOptions }: Pick<ContainerOptions, "logDriver" | "logOptions">, bytes: number): object {
  const Type = logDriver || "json-file";
  const bounds = boundedDrivers.includes(Type) ? { "max-size": String(bytes), "max-file": "2" } : {};
  return { Type, Config: { ...bounds, ...logOptions } };
}

/** `HOST:CONTAINER:rwm`, of which the last two may be missing. */
function deviceOf(device: string): object {
  const [PathOnHost = "", PathInContainer = PathOnHost, CgroupPermissions = "rwm"] = device.split(":");
  return { PathOnHost, PathInContainer, CgroupPermissions };
}

function text(name: string, value: string): object {
  return value === "" ? {} : { [name]: value };
}
