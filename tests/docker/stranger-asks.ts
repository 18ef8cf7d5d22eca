/** What strangers' Compose files ask of a host, each with the reason and the path that it is refused with. */
import { busybox } from "./beside.ts";

/** A file with one service `web`, and what stands beside `services`. */
export const service = (keys: string, rest = ""): string =>
  `services:\n  web:\n    image: ${busybox}\n    ${keys.replaceAll("\n", "\n    ")}\n${rest}`;
const mounted = (options: string): [string, string] => ["volumes: ['v:/v']", `volumes: { v: { ${options} } }`];
const privileged = `services: { base: { image: "${busybox}", privileged: true } }`;

const web = "services.web.";
/** `why` and `path`: in the order of the places, with `,` and a blank between. `files`: beside the first. */
export type Refused = [
  what: string,
  text: string,
  why: string,
  path: string,
  files?: Record<string, string>,
  more?: { hostDirectory: string },
];

/** What a cluster's policy could allow. */
export const byPolicy: Refused[] = [
  ["its root", service("volumes: ['/:/host:ro']"), "POLICY_HOST_PATH", `${web}volumes[0]`],
  [
    "its root, in other words",
    service("volumes: [{ type: bind, source: /srv/../., target: /host }]"),
    "POLICY_HOST_PATH",
    `${web}volumes[0]`,
  ],
  [
    "its root from a folder of the host",
    service("volumes: ['../..:/host']"),
    "POLICY_HOST_PATH",
    `${web}volumes[0]`,
    {},
    { hostDirectory: "/srv/shop" },
  ],
  ["its root through a process", service("volumes: ['/proc/self/root:/h']"), "POLICY_HOST_PATH", `${web}volumes[0]`],
  [
    "its root as a volume",
    service(...mounted("driver_opts: { type: none, o: bind, device: / }")),
    "POLICY_HOST_PATH",
    "volumes.v.driver_opts.device",
  ],
  [
    "its root as a tmpfs that is none",
    service(...mounted("driver_opts: { type: tmpfs, o: 'size=1m,rbind', device: / }")),
    "POLICY_HOST_PATH,POLICY_DRIVER",
    "volumes.v.driver_opts.device volumes.v.driver_opts",
  ],
  ["the engine", service("volumes: ['/var/run/docker.sock:/s']"), "POLICY_HOST_PATH", `${web}volumes[0]`],
  ["its network", service("network_mode: host"), "POLICY_HOST_NETWORK", `${web}network_mode`],
  ["another's network", service("network_mode: 'container:a'"), "POLICY_HOST_NETWORK", `${web}network_mode`],
  [
    "its network as one from outside",
    service("networks: [n]", "networks: { n: { external: true, name: host } }"),
    "POLICY_HOST_NETWORK,POLICY_EXTERNAL",
    "networks.n networks.n",
  ],
  ["its processes", service("pid: host"), "POLICY_HOST_NAMESPACE", `${web}pid`],
  ["its memory", service("ipc: host"), "POLICY_HOST_NAMESPACE", `${web}ipc`],
  ["its names", service("uts: host"), "POLICY_HOST_NAMESPACE", `${web}uts`],
  ["its users", service("userns_mode: host"), "POLICY_HOST_NAMESPACE", `${web}userns_mode`],
  ["its cgroups", service("cgroup_parent: /"), "POLICY_CGROUP", `${web}cgroup_parent`],
  ["privileges", service("privileged: true"), "POLICY_PRIVILEGED", `${web}privileged`],
  ["privileges by a variable", service("privileged: ${NOT_SET:-yes}"), "POLICY_PRIVILEGED", `${web}privileged`],
  [
    "privileges by an anchor",
    `x-all: &all { privileged: true }\n${service("<<: *all")}`,
    "POLICY_PRIVILEGED",
    `${web}privileged`,
  ],
  [
    "privileges of a file that is extended",
    service("extends: { file: other.yaml, service: base }"),
    "POLICY_PRIVILEGED",
    `${web}privileged`,
    { "other.yaml": privileged },
  ],
  [
    "privileges of a file that is included",
    `include: [other.yaml]\n${service("read_only: true")}`,
    "POLICY_PRIVILEGED",
    "services.base.privileged",
    { "other.yaml": privileged },
  ],
  ["a capability", service("cap_add: [SYS_ADMIN]"), "POLICY_CAPABILITY", `${web}cap_add[0]`],
  ["every capability", service("cap_add: [all]"), "POLICY_CAPABILITY", `${web}cap_add[0]`],
  ["a device", service("devices: ['/dev/sda:/dev/null']"), "POLICY_DEVICE", `${web}devices[0]`],
  ["system calls", service("security_opt: ['seccomp:unconfined']"), "POLICY_SECURITY_OPTION", `${web}security_opt[0]`],
  ["its kernel", service("sysctls: { vm.swappiness: 1 }"), "POLICY_SYSCTL", `${web}sysctls["vm.swappiness"]`],
  ["another's volume", service(...mounted("external: true, name: theirs")), "POLICY_EXTERNAL", "volumes.v"],
  [
    "another's network",
    service("networks: [n]", "networks: { n: { external: true } }"),
    "POLICY_EXTERNAL",
    "networks.n",
  ],
  ["its wires", service("networks: [n]", "networks: { n: { driver: macvlan } }"), "POLICY_DRIVER", "networks.n.driver"],
  [
    "a share of its own",
    service(...mounted("driver_opts: { type: nfs, o: addr=127.0.0.1, device: ':/' }")),
    "POLICY_DRIVER",
    "volumes.v.driver_opts",
  ],
  ["its log", service("logging: { driver: journald }"), "POLICY_DRIVER", `${web}logging.driver`],
  ["a port that is another's", service("ports: ['443:443']"), "POLICY_PORT", `${web}ports[0]`],
];

/** What no policy gives: the keys are not there, and the server reads no file of any host. */
export const forGood: Refused[] = [
  ["the engine by a word", service("use_api_socket: true"), "UNSUPPORTED_KEY", `${web}use_api_socket`],
  ["devices by numbers", service("device_cgroup_rules: ['a *:* rwm']"), "UNSUPPORTED_KEY", `${web}device_cgroup_rules`],
  ["another's mounts", service("volumes_from: ['container:a']"), "UNSUPPORTED_KEY", `${web}volumes_from`],
  ["another runtime", service("runtime: kata"), "UNSUPPORTED_KEY", `${web}runtime`],
  [
    "a privileged hook",
    service("post_start: [{ command: sh, privileged: true }]"),
    "UNSUPPORTED_KEY",
    `${web}post_start`,
  ],
  ["what the host mounts later", service("volumes: ['/srv:/srv:rshared']"), "VALUE_INVALID", `${web}volumes[0]`],
  [
    "a file of the host as a secret",
    service("secrets: [s]", "secrets: { s: { file: /etc/shadow } }"),
    "FILE_MISSING",
    "secrets.s.file",
  ],
  [
    "a file of the host as a config",
    service("configs: [c]", "configs: { c: { file: /etc/shadow } }"),
    "FILE_MISSING",
    "configs.c.file",
  ],
  ["a file of the host as variables", service("env_file: /etc/shadow"), "FILE_MISSING", `${web}env_file[0]`],
];
