/**
 * What a service needs of an agent, as capabilities that agents report (describe() of their runtimes), each with the
 * place in the Compose file that asks for it. Pure.
 *
 * D1: only what an agent without the capability would refuse. What it does without, and says so (limits of the local
 *     runtime), needs none.
 */
import type { Service, Stack as StackModel } from "@bowline/compose";
import { denialsOf, type HostRight, hostRights, isHostRight, rightsOfContainer, rightsOfVolume } from "@bowline/kernel";
import { containerOf } from "./container.ts";

export interface Need {
  capability: string;
  /** `services.web.read_only`. */
  path: string;
}

/** One for each capability, with the first place that asks for it. `isForwarded`: the agent is to hold its published ports. */
export function needsOf(model: StackModel, service: Service, isForwarded: boolean): Need[] {
  const at = (key: string): string => `services.${service.name}.${key}`;
  const needs = new Map<string, string>();
  const need = (capability: string, path: string): void => {
    if (!needs.has(capability)) needs.set(capability, path);
  };
  if ((service.entrypoint ?? []).length + (service.command ?? []).length === 0) need("images", at("image"));
  if (service.healthcheck?.test !== undefined) need("health-checks", at("healthcheck"));
  if (service.healthcheck?.disabled === true) need("container-options", at("healthcheck.disable"));
  if (isForwarded) need("forwards", at("ports"));
  if (service.job) need("jobs", at("deploy.mode"));
  if (service.secrets.length > 0) need("secrets", at("secrets"));
  for (const mount of service.mounts) {
    if (mount.kind === "volume") need("volumes", at("volumes"));
    else if (mount.kind === "bind") need("host-paths", at("volumes"));
    else need("container-options", at("tmpfs"));
  }
  const options = Object.entries(containerOf(service).container ?? {});
  const [option] = options.find(([, value]) =>
    typeof value === "object" ? Object.keys(value).length > 0 : Boolean(value),
  ) ?? [""];
  if (option !== "") need("container-options", at(keys[option] ?? option));
  for (const { network: name } of service.networks) {
    const network = model.networks.find((one) => one.name === name);
    if (network === undefined) continue;
    const asks = network.internal || network.externalName !== undefined || !["", "bridge"].includes(network.driver);
    if (asks) need("networks", `networks.${name}`);
  }
  for (const mount of service.mounts) {
    const volume = mount.kind === "volume" ? model.volumes.find((one) => one.name === mount.volume) : undefined;
    if (volume === undefined) continue;
    const isDriven = !["", "local"].includes(volume.driver) || Object.keys(volume.driverOptions).length > 0;
    if (isDriven || volume.externalName !== undefined) need("container-options", `volumes.${volume.name}`);
    const reaches = volume.externalName === undefined ? rightsOfVolume(volume.driver, volume.driverOptions) : [];
    if (reaches.some(({ right }) => right === "host-paths")) need("host-paths", `volumes.${volume.name}`);
  }
  return [...needs].map(([capability, path]) => ({ capability, path }));
}

/** What a service wants of its host that the host's owner may deny the agent; agents that deny nothing have all of it. */
export function rightsNeeded(model: StackModel, service: Service): Need[] {
  const at = (key: string): string => `services.${service.name}.${key}`;
  const needs = new Map<string, string>();
  const need = (right: HostRight, path: string): void => {
    if (!needs.has(right)) needs.set(right, path);
  };
  for (const { right, field } of rightsOfContainer(containerOf(service).container ?? {}))
    need(right, at(keys[field] ?? field));
  if (service.ports.length > 0) need("published-ports", at("ports"));
  for (const { network: name } of service.networks) {
    const network = model.networks.find((one) => one.name === name);
    if (network?.externalName !== undefined)
      need(network.externalName === "host" ? "host-network" : "externals", `networks.${name}`);
    if (!["", "bridge"].includes(network?.driver ?? "")) need("drivers", `networks.${name}`);
  }
  for (const mount of service.mounts) {
    const volume = mount.kind === "volume" ? model.volumes.find((one) => one.name === mount.volume) : undefined;
    if (volume === undefined) continue;
    if (volume.externalName !== undefined) need("externals", `volumes.${volume.name}`);
    else
      for (const { right } of rightsOfVolume(volume.driver, volume.driverOptions))
        need(right, `volumes.${volume.name}`);
  }
  return [...needs].filter(([right]) => right !== "host-paths").map(([capability, path]) => ({ capability, path }));
}

/** The rights of hosts that an agent with these capabilities has, beside them. */
export function rightsLeft(capabilities: readonly string[]): string[] {
  const denied = denialsOf(capabilities);
  return Object.keys(hostRights).filter((right) => right !== "host-paths" && isHostRight(right) && !denied.has(right));
}

/** What a file calls an option of containers. */
const keys: Readonly<Record<string, string>> = {
  pullPolicy: "pull_policy",
  groups: "group_add",
  readOnly: "read_only",
  stdinOpen: "stdin_open",
  extraHosts: "extra_hosts",
  dnsSearch: "dns_search",
  dnsOptions: "dns_opt",
  shmBytes: "shm_size",
  pidsLimit: "pids_limit",
  memoryReservationBytes: "deploy.resources.reservations.memory",
  capDrop: "cap_drop",
  capAdd: "cap_add",
  securityOptions: "security_opt",
  networkMode: "network_mode",
  pidMode: "pid",
  ipcMode: "ipc",
  utsMode: "uts",
  usernsMode: "userns_mode",
  cgroupParent: "cgroup_parent",
  logDriver: "logging.driver",
  logOptions: "logging.options",
  maxRestarts: "deploy.restart_policy.max_attempts",
};

/** What no agent with this runtime will ever report: processes are not containers. */
const neverAt: Readonly<Record<string, readonly string[]>> = {
  local: ["images", "container-options", "networks", "host-paths"],
};

/** Whether an agent of such a cluster can ever have it. `capabilities`: the cluster's restriction; empty: none. */
export function mayHave(cluster: { runtime: string; capabilities: readonly string[] }, capability: string): boolean {
  if (neverAt[cluster.runtime]?.includes(capability) === true) return false;
  return cluster.capabilities.length === 0 || cluster.capabilities.includes(capability);
}
