/**
 * What workloads and people may want of a host beyond the ordinary. A cluster's policy allows it, and the host's owner
 * may deny it to the agent there whatever that policy says. Both use these names.
 *
 * Agents tell what is denied as capabilities `denies/<right>`.
 */
export const hostRights = {
  privileged: "privileged containers",
  "host-paths": "paths of the host, also through a volume's options",
  "host-network": "the network of the host or of another container",
  "host-namespaces": "pid, ipc, uts and user namespaces that are not the container's own, and cgroups",
  capabilities: "added capabilities",
  devices: "devices of the host",
  "security-options": "security options that take isolation away",
  sysctls: "kernel parameters beyond the container's own",
  externals: "networks and volumes from outside the deployment",
  drivers: "drivers of networks, volumes and logs that reach beyond the host",
  "published-ports": "ports of the host",
  exec: "programs that people run in instances",
  "foreign-containers": "the list of the containers that are not Bowline's",
} as const satisfies Record<string, string>;
export type HostRight = keyof typeof hostRights;

/** Rights that give the host whole or in part; whoever is privileged has them all. */
const withinPrivileged = [
  "host-paths",
  "host-network",
  "host-namespaces",
  "capabilities",
  "devices",
  "security-options",
  "sysctls",
] as const satisfies readonly HostRight[];

const mark = "denies/";

export function isHostRight(name: string): name is HostRight {
  return Object.hasOwn(hostRights, name);
}

/** What is denied where these are: what would get round a denial is denied with it. */
export function impliedDenials(denied: readonly HostRight[]): ReadonlySet<HostRight> {
  const all = new Set(denied);
  if (withinPrivileged.some((right) => all.has(right))) all.add("privileged");
  return all;
}

/** As an agent reports what it denies. */
export function deniedCapabilities(denied: ReadonlySet<HostRight>): string[] {
  return [...denied].toSorted().map((right) => mark + right);
}

/** What an agent with these capabilities denies; one that says nothing denies nothing. */
export function denialsOf(capabilities: readonly string[]): ReadonlySet<HostRight> {
  return new Set(
    capabilities
      .filter((name) => name.startsWith(mark))
      .map((name) => name.slice(mark.length))
      .filter(isHostRight),
  );
}

/** What is wanted of a host, and which field wants it. */
export interface WantedRight {
  right: HostRight;
  /** Of the container, in camel case; empty for a volume. */
  field: string;
  value: string;
}

/** What of a container's options reaches its host; a deployment's own, or what one is compiled to. */
export interface ContainerWish {
  privileged?: boolean;
  networkMode?: string;
  pidMode?: string;
  ipcMode?: string;
  utsMode?: string;
  usernsMode?: string;
  cgroupParent?: string;
  capAdd?: readonly string[];
  devices?: readonly string[];
  securityOptions?: readonly string[];
  sysctls?: Readonly<Record<string, string>>;
  logDriver?: string;
}

/** Kernel parameters of the container's own namespaces. */
const ownSysctls = /^(net\.|kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)$|fs\.mqueue\.)/;
const ownIpc: readonly string[] = ["", "private", "shareable", "none"];
const ownNetworks: readonly string[] = ["", "none", "bridge", "default"];
/** Drivers that keep logs on the host, within limits. */
const ownLogDrivers: readonly string[] = ["", "json-file", "local", "none"];

/** What stays inside the container: denials and the policy of clusters draw one line. */
export const ownOfContainer = {
  sysctl: (name: string): boolean => ownSysctls.test(name),
  ipcMode: (mode: string): boolean => ownIpc.includes(mode),
  logDriver: (driver: string): boolean => ownLogDrivers.includes(driver),
  securityOption: (option: string): boolean => /^no-new-privileges([:=]true)?$/.test(option),
} as const;

export function rightsOfContainer(wish: ContainerWish): WantedRight[] {
  const found: WantedRight[] = [];
  const add = (right: HostRight, field: keyof ContainerWish, values: readonly string[]): void => {
    for (const value of values) found.push({ right, field, value });
  };
  const beyond = (value: string | undefined, own: readonly string[]): string[] =>
    own.includes(value ?? "") ? [] : [value ?? ""];
  if (wish.privileged === true) add("privileged", "privileged", ["privileged"]);
  add("host-network", "networkMode", beyond(wish.networkMode, ownNetworks));
  for (const field of ["pidMode", "utsMode", "usernsMode", "cgroupParent"] as const)
    add("host-namespaces", field, beyond(wish[field], [""]));
  add("host-namespaces", "ipcMode", beyond(wish.ipcMode, ownIpc));
  add("capabilities", "capAdd", wish.capAdd ?? []);
  add("devices", "devices", wish.devices ?? []);
  const loosens = (option: string): boolean => !ownOfContainer.securityOption(option);
  add("security-options", "securityOptions", (wish.securityOptions ?? []).filter(loosens));
  const reaches = (name: string): boolean => !ownOfContainer.sysctl(name);
  add("sysctls", "sysctls", Object.keys(wish.sysctls ?? {}).filter(reaches));
  add("drivers", "logDriver", beyond(wish.logDriver, ownLogDrivers));
  return found;
}

/** Options of a tmpfs that stay inside it. All others of mount(8) may reach the host: `bind` makes any type a bind. */
const ownTmpfsOption = /^(|(size|mode|uid|gid|nr_inodes)=\w+%?|ro|rw|noexec|nosuid|nodev)$/;
const remoteTypes = ["nfs", "nfs4", "cifs"];

/** What a volume with this driver and these options wants: the `local` driver mounts whatever its options say. */
export function rightsOfVolume(driver: string, options: Readonly<Record<string, string>>): WantedRight[] {
  if (!["", "local"].includes(driver)) return [{ right: "drivers", field: "", value: driver }];
  if (Object.keys(options).length === 0) return [];
  // Engines differ in whether they look at the case of a key, and which of two spellings counts: all of them do here.
  const values = (key: string): string[] =>
    Object.entries(options).flatMap(([name, value]) => (name.toLowerCase() === key ? [value] : []));
  const [types, devices] = [values("type"), values("device")];
  const flags = values("o").flatMap((given) => given.split(",").map((flag) => flag.trim()));
  const isEach = (known: readonly string[]): boolean => types.length > 0 && types.every((type) => known.includes(type));
  if (isEach(["tmpfs"]) && flags.every((flag) => ownTmpfsOption.test(flag))) return [];
  const found: WantedRight[] = [];
  const binds = types.includes("bind") || flags.some((flag) => flag.includes("bind"));
  if (binds || !isEach(remoteTypes))
    for (const value of devices.length === 0 ? [""] : devices) found.push({ right: "host-paths", field: "", value });
  for (const type of types)
    if (!["", "none", "bind"].includes(type)) found.push({ right: "drivers", field: "", value: `local:${type}` });
  return found;
}
