/** What an operator allows in a cluster, as flags: `--allow-host-network`, `--allow-capability NET_ADMIN`. */
import { create } from "@bufbuild/protobuf";
import { type ClusterPolicy, ClusterPolicySchema } from "@bowline/contract/clusters";
import type { Command } from "commander";
import { listArgument } from "../cli.ts";

type Switch =
  | "allowPrivateBackends"
  | "allowHostPaths"
  | "allowPrivileged"
  | "allowBulkEnrolment"
  | "allowHostNetwork"
  | "allowHostNamespaces"
  | "reportForeignContainers";
type List =
  | "allowedHostPaths"
  | "allowedCapabilities"
  | "allowedDevices"
  | "allowedSecurityOptions"
  | "allowedSysctls"
  | "allowedExternals"
  | "allowedDrivers"
  | "allowedPublishedPorts";

/** Flag, help, and how `cluster get` names it. */
const switches: Readonly<Record<Switch, readonly [flag: string, help: string, short: string]>> = {
  allowPrivateBackends: [
    "allow-private-backends",
    "backends may have loopback, link-local and private addresses",
    "private backends",
  ],
  allowHostPaths: ["allow-host-paths", "workloads may mount any path of the host", "all host paths"],
  allowPrivileged: ["allow-privileged", "workloads may be privileged, and so ask for anything", "privileged workloads"],
  allowBulkEnrolment: [
    "allow-bulk-enrolment",
    "registration tokens may have more than one use",
    "registration tokens for many",
  ],
  allowHostNetwork: ["allow-host-network", "workloads may use the host's network", "the host's network"],
  allowHostNamespaces: [
    "allow-host-namespaces",
    "workloads may use the host's pid, ipc, uts and user namespaces and cgroups",
    "the host's namespaces",
  ],
  reportForeignContainers: [
    "report-foreign-containers",
    "operators and viewers may list containers on hosts that are not Bowline's",
    "others' containers listed",
  ],
};

const lists: Readonly<Record<List, readonly [flag: string, value: string, help: string, short: string]>> = {
  allowedHostPaths: ["allow-host-path", "<path>", "a path of the host, and what is below it", "host paths"],
  allowedCapabilities: ["allow-capability", "<name>", "a capability, such as NET_ADMIN; ALL for all", "capabilities"],
  allowedDevices: ["allow-device", "<path>", "a device of the host", "devices"],
  allowedSecurityOptions: ["allow-security-option", "<option>", "as Compose files write it", "security options"],
  allowedSysctls: ["allow-sysctl", "<name>", "a kernel parameter beyond the container's own", "kernel parameters"],
  allowedExternals: ["allow-external", "<kind:name>", "network:NAME or volume:NAME of others; * for all", "external"],
  allowedDrivers: ["allow-driver", "<kind=name>", "volume=NAME, network=NAME or logging=NAME", "drivers"],
  allowedPublishedPorts: [
    "allow-published-port",
    "<range>",
    "stacks publish these ports of hosts only, such as 8000-8999 (default: any)",
    "published ports only",
  ],
};

export type PolicyFlags = { readonly [flag in Switch]?: boolean } & Readonly<Record<string, unknown>>;

/** `both`: also what takes it back. */
export function policyFlags(command: Command, both: boolean): Command {
  for (const [flag, help] of Object.values(switches)) {
    command.option(`--${flag}`, help);
    if (both) command.option(`--no-${flag}`, "they may not");
  }
  for (const [flag, value, help] of Object.values(lists))
    command.option(`--${flag} ${value}`, `${help}; may be repeated${both ? "; '' for none" : ""}`, listArgument);
  return command;
}

/** The fields of a policy that flags name. */
export function policyOf(flags: PolicyFlags): Omit<Partial<ClusterPolicy>, "$typeName" | "$unknown"> {
  const given = [
    ...Object.keys(switches).map((key) => [key, flags[key]]),
    ...Object.entries(lists).map(([key, [flag]]) => [key, flags[camel(flag)]]),
  ];
  return Object.fromEntries(given.filter(([, value]) => value !== undefined));
}

/** What is allowed, for people. */
export function allowedText(policy: ClusterPolicy = create(ClusterPolicySchema)): string {
  const allowed = [
    ...Object.entries(switches).flatMap(([key, [, , short]]) => (policy[key as Switch] ? [short] : [])),
    ...Object.entries(lists).flatMap(([key, [, , , short]]) => {
      const values = policy[key as List];
      return values.length === 0 ? [] : [`${short} ${values.join(", ")}`];
    }),
  ];
  return allowed.join("; ") || "nothing beyond the ordinary";
}

function camel(flag: string): string {
  return flag.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
