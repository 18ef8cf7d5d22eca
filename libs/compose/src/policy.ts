/**
 * What a cluster's policy says to what a file asks of the host.
 *
 * P1: everything is refused that is not allowed here by name; ports are where the policy names some.
 * P2: a folder that is allowed allows what is below it, but never the engine's
 *     or an agent's socket, nor a folder that holds one or an engine's own
 *     data: those give the whole host, and must be named.
 * P3: nor does it allow what the kernel has below it of a process: its links
 *     (/proc/self/root) lead to the whole host, and an engine follows them,
 *     where a container that has /proc itself may not.
 */
import type { Ask } from "./model.ts";
import type { ComposeReason } from "./reasons.ts";
import type { Diagnostic } from "./report.ts";

/** What an operator allows. All of it is off by default. */
export interface ComposePolicy {
  /** Absolute paths; each allows what is below it. */
  readonly hostPaths?: readonly string[];
  /** Privileged containers. They can do whatever the host can: with this, every other ask is allowed. */
  readonly privileged?: boolean;
  /** The host's network, or another container's. */
  readonly hostNetwork?: boolean;
  /** The host's pid, ipc, uts and user namespaces, and cgroups. */
  readonly hostNamespaces?: boolean;
  /** Without `CAP_`; `ALL` for all. */
  readonly capabilities?: readonly string[];
  /** Paths of devices. */
  readonly devices?: readonly string[];
  /** Options as the file writes them. */
  readonly securityOptions?: readonly string[];
  /** Kernel parameters beyond the container's own namespaces. */
  readonly sysctls?: readonly string[];
  /** `network:NAME`, `volume:NAME`; `*` for all. */
  readonly externals?: readonly string[];
  /** `volume=NAME`, `network=NAME`, `logging=NAME`, as the asks have them. */
  readonly drivers?: readonly string[];
  /** `443`, `8000-8999`. The one that restricts: undefined or empty, any port may be published. */
  readonly publishedPorts?: readonly string[];
}

const reasons = {
  host_path: "POLICY_HOST_PATH",
  privileged: "POLICY_PRIVILEGED",
  capability: "POLICY_CAPABILITY",
  host_network: "POLICY_HOST_NETWORK",
  host_namespace: "POLICY_HOST_NAMESPACE",
  device: "POLICY_DEVICE",
  security_option: "POLICY_SECURITY_OPTION",
  cgroup: "POLICY_CGROUP",
  sysctl: "POLICY_SYSCTL",
  external: "POLICY_EXTERNAL",
  driver: "POLICY_DRIVER",
  published_port: "POLICY_PORT",
} as const satisfies Record<Ask["kind"], ComposeReason>;

/** What is asked for and not allowed: one error per ask. */
export function checkPolicy(asks: readonly Ask[], policy: ComposePolicy): Diagnostic[] {
  if (policy.privileged === true) return [];
  return asks
    .filter((ask) => !allowed(ask, policy))
    .map((ask) => ({
      severity: "error",
      reason: reasons[ask.kind],
      ...ask.place,
      path: ask.path,
      message: `${said[ask.kind]} ${valueOf(ask)}, which the cluster's policy does not allow`,
      advice: "Do without it, or ask an operator to allow it for this cluster.",
    }));
}

/** As a sentence has it. */
function valueOf({ kind, value }: Ask): string {
  return kind === "published_port" && value.startsWith("0/") ? "that happens to be free" : value;
}

const said: Readonly<Record<Ask["kind"], string>> = {
  host_path: "it mounts the host's",
  privileged: "it wants to be",
  capability: "it wants the capability",
  host_network: "it wants the network of",
  host_namespace: "it wants the namespace",
  device: "it wants the device",
  security_option: "it sets the security option",
  cgroup: "it wants the cgroup",
  sysctl: "it sets the kernel parameter",
  external: "it uses the",
  driver: "it uses the driver",
  published_port: "it publishes the port",
};

function allowed(ask: Ask, policy: ComposePolicy): boolean {
  switch (ask.kind) {
    case "host_path":
      return hostPath(ask.value, policy.hostPaths ?? []);
    case "capability":
      return (policy.capabilities ?? []).some((name) =>
        ["ALL", ask.value].includes(name.toUpperCase().replace(/^CAP_/, "")),
      );
    case "host_network":
      return policy.hostNetwork === true;
    case "host_namespace":
    case "cgroup":
      return policy.hostNamespaces === true;
    case "device":
      return (policy.devices ?? []).includes(ask.value);
    case "security_option":
      return (policy.securityOptions ?? []).includes(ask.value);
    case "sysctl":
      return (policy.sysctls ?? []).includes(ask.value);
    case "external":
      return (policy.externals ?? []).some((name) => name === "*" || name === ask.value);
    case "driver":
      return (policy.drivers ?? []).includes(ask.value);
    case "published_port":
      return portIn(Number.parseInt(ask.value, 10), policy.publishedPorts ?? []);
    case "privileged":
      return false; // allowed above
    default:
      return ask.kind satisfies never;
  }
}

/** Port 0 is any that is free: only where all may be published. */
function portIn(port: number, ranges: readonly string[]): boolean {
  if (ranges.length === 0) return true;
  return ranges.some((range) => {
    const [first = NaN, last = first] = range.split("-").map(Number);
    if (port === 0) return first <= 1 && last >= 65535;
    return port >= first && port <= last;
  });
}

/** Sockets that give the whole host. */
const sockets = /(^|\/)(docker|podman|containerd|crio|dockershim|bowline[\w.-]*)(\.sock|\/[\w.-]+\.sock)$/;

/** What engines and agents keep for themselves, their sockets among it. `/var/run` is `/run`. */
const engines =
  /^\/(run\/(user\/\d+\/)?|var\/lib\/|dev\/shm\/)(docker|podman|containerd|containers|crio|bowline[\w.-]*)(\/|$)/;
/** The folders above those. */
const aboveEngines = /^\/(run(\/user(\/\d+)?)?|var(\/lib)?)?$/;

/** Of a process, and the aliases of its open files (P3). */
const processes = /^\/(proc\/(self|thread-self|\d+)|dev\/(fd|stdin|stdout|stderr))(\/|$)/;

function withoutAlias(path: string): string {
  return path === "/var/run" || path.startsWith("/var/run/") ? path.slice("/var".length) : path;
}

function hostPath(path: string, allowedPaths: readonly string[]): boolean {
  const plain = withoutAlias(path);
  return allowedPaths.some((given) => {
    const parts = given.split("/").filter((part) => part !== "" && part !== ".");
    const folder = withoutAlias(`/${parts.join("/")}`);
    if (!given.startsWith("/") || parts.includes("..")) return false; // no path at all
    if (plain === folder) return true;
    if (sockets.test(plain) || aboveEngines.test(plain)) return false; // P2
    if (processes.test(plain)) return false; // P3
    if (engines.test(plain) && !engines.test(folder)) return false; // P2
    return plain.startsWith(folder === "/" ? "/" : `${folder}/`);
  });
}
