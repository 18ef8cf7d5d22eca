import { expect, test } from "@jest/globals";
import { asksOf } from "./asks.ts";
import type { Ask } from "./model.ts";
import { parseCompose } from "./parse.ts";
import { checkPolicy, type ComposePolicy } from "./policy.ts";

function asked(text: string) {
  const { asks, errors, stack } = parseCompose({
    name: "x",
    files: [{ name: "f.yaml", text }],
    projectDirectory: "/srv/shop",
  });
  expect(errors).toEqual([]);
  if (stack === undefined) throw new Error("no stack");
  const said = (all: readonly Ask[]) => [...new Set(all.map(({ kind, value }) => `${kind} ${value}`))].toSorted();
  // Whatever a file asks, its revision asks as well.
  expect(said(asksOf(stack, "r1"))).toEqual(said(asks));
  return asks;
}

const askedButPorts = (text: string) => asked(text).filter(({ kind }) => kind !== "published_port");

/** What is refused of a service with these keys. */
function refused(keys: string, policy: ComposePolicy = {}, rest = ""): string[] {
  const asks = asked(`services: {web: {image: i, ${keys}}}\n${rest}`);
  return checkPolicy(asks, policy).map(({ reason, path }) => `${reason} ${path}`);
}

const harmless = `ports: ['80:80'], volumes: ['data:/data', '/anonymous'], tmpfs: /tmp, cap_drop: [ALL], read_only: true,
  security_opt: ['no-new-privileges:true'], sysctls: {net.core.somaxconn: 1}, ipc: private,
  logging: {driver: json-file}, privileged: false, network_mode: bridge`;

test("an ordinary service asks the host for nothing", () => {
  expect(
    askedButPorts(
      `services: {web: {image: i, ${harmless}}}\nvolumes: {data: {driver: local}}\nnetworks: {n: {driver: bridge}}`,
    ),
  ).toEqual([]);
});

const cases: [keys: string, fault: string, allowing: ComposePolicy, rest?: string][] = [
  ["volumes: ['/:/host']", "POLICY_HOST_PATH services.web.volumes[0]", { hostPaths: ["/"] }],
  ["volumes: ['/etc:/x:ro']", "POLICY_HOST_PATH services.web.volumes[0]", { hostPaths: ["/etc"] }],
  ["volumes: ['./up/../../../etc:/x']", "POLICY_HOST_PATH services.web.volumes[0]", { hostPaths: ["/etc"] }],
  ["volumes: ['./data:/x']", "POLICY_HOST_PATH services.web.volumes[0]", { hostPaths: ["/srv/shop"] }],
  [
    "volumes: [{type: bind, source: /dev, target: /x}]",
    "POLICY_HOST_PATH services.web.volumes[0]",
    { hostPaths: ["/dev/"] },
  ],
  [
    "volumes: ['/var/run/docker.sock:/var/run/docker.sock']",
    "POLICY_HOST_PATH services.web.volumes[0]",
    { hostPaths: ["/var/run/docker.sock"] },
  ],
  [
    "volumes: ['v:/x']",
    "POLICY_HOST_PATH volumes.v.driver_opts.device",
    { hostPaths: ["/root"] },
    "volumes: {v: {driver_opts: {type: none, o: bind, device: /root}}}",
  ],
  [
    "volumes: ['v:/x']",
    "POLICY_HOST_PATH volumes.v.driver_opts.device",
    { hostPaths: ["/root"] },
    "volumes: {v: {driver_opts: {o: 'ro,rbind', device: /root}}}",
  ],
  [
    "user: a",
    "POLICY_DRIVER volumes.v.driver_opts",
    { drivers: ["volume=local:nfs"] },
    "volumes: {v: {driver_opts: {type: nfs, o: 'addr=10.0.0.1', device: ':/x'}}}",
  ],
  ["user: a", "POLICY_DRIVER volumes.v.driver", { drivers: ["volume=rexray"] }, "volumes: {v: {driver: rexray}}"],
  ["user: a", "POLICY_DRIVER networks.n.driver", { drivers: ["network=macvlan"] }, "networks: {n: {driver: macvlan}}"],
  ["logging: {driver: syslog}", "POLICY_DRIVER services.web.logging.driver", { drivers: ["logging=syslog"] }],
  ["user: a", "POLICY_EXTERNAL volumes.v", { externals: ["volume:w"] }, "volumes: {v: {external: true, name: w}}"],
  ["user: a", "POLICY_EXTERNAL networks.n", { externals: ["*"] }, "networks: {n: {external: {name: other}}}"],
  ["privileged: true", "POLICY_PRIVILEGED services.web.privileged", { privileged: true }],
  ["privileged: 'yes'", "POLICY_PRIVILEGED services.web.privileged", { privileged: true }],
  ["cap_add: [CAP_SYS_ADMIN]", "POLICY_CAPABILITY services.web.cap_add[0]", { capabilities: ["SYS_ADMIN"] }],
  ["cap_add: [net_admin]", "POLICY_CAPABILITY services.web.cap_add[0]", { capabilities: ["ALL"] }],
  ["network_mode: host", "POLICY_HOST_NETWORK services.web.network_mode", { hostNetwork: true }],
  ["network_mode: 'container:other'", "POLICY_HOST_NETWORK services.web.network_mode", { hostNetwork: true }],
  ["pid: host", "POLICY_HOST_NAMESPACE services.web.pid", { hostNamespaces: true }],
  ["ipc: host", "POLICY_HOST_NAMESPACE services.web.ipc", { hostNamespaces: true }],
  ["uts: host", "POLICY_HOST_NAMESPACE services.web.uts", { hostNamespaces: true }],
  ["userns_mode: host", "POLICY_HOST_NAMESPACE services.web.userns_mode", { hostNamespaces: true }],
  ["ipc: 'container:x'", "POLICY_HOST_NAMESPACE services.web.ipc", { hostNamespaces: true }],
  ["cgroup_parent: /system", "POLICY_CGROUP services.web.cgroup_parent", { hostNamespaces: true }],
  ["devices: ['/dev/sda:/dev/sda:r']", "POLICY_DEVICE services.web.devices[0]", { devices: ["/dev/sda"] }],
  ["devices: [{source: /dev/kvm}]", "POLICY_DEVICE services.web.devices[0]", { devices: ["/dev/kvm"] }],
  [
    "security_opt: ['seccomp:unconfined']",
    "POLICY_SECURITY_OPTION services.web.security_opt[0]",
    { securityOptions: ["seccomp:unconfined"] },
  ],
  ["sysctls: {kernel.panic: 1}", 'POLICY_SYSCTL services.web.sysctls["kernel.panic"]', { sysctls: ["kernel.panic"] }],
];

test.each(cases)("%s is refused (%s), and allowed where the policy says so", (keys, fault, allowing, rest = "") => {
  expect(refused(keys, {}, rest)).toEqual([fault]);
  expect(refused(keys, allowing, rest)).toEqual([]);
});

test("published ports are any, unless the policy names some", () => {
  const ports = "ports: ['80:80', '127.0.0.1:8443:443', '8100-8101:90-91', '5353:53/udp', '99']";
  expect(refused(ports)).toEqual([]);
  expect(refused(ports, { publishedPorts: ["8000-8999"] })).toEqual([
    "POLICY_PORT services.web.ports[0]",
    "POLICY_PORT services.web.ports[3]",
    "POLICY_PORT services.web.ports[4]",
  ]);
  const any = "POLICY_PORT services.web.ports[4]";
  expect(refused(ports, { publishedPorts: ["80", "5353", "8000-8999"] })).toEqual([any]);
  expect(refused(ports, { publishedPorts: ["9-8", "x"] })).toHaveLength(6);
});

test("a port that happens to be free is none of those that a policy names, unless it names all", () => {
  const ports = "ports: ['90-95', '127.0.0.1::90', {target: 96}, '97/udp']";
  expect(refused(ports)).toEqual([]);
  const four = [0, 1, 2, 3].map((index) => `POLICY_PORT services.web.ports[${index}]`);
  expect(refused(ports, { publishedPorts: ["8000-8999"] })).toEqual(four);
  expect(refused(ports, { publishedPorts: ["0", "0-1", "2-65535"] })).toEqual(four);
  expect(refused(ports, { publishedPorts: ["80", "1-65535"] })).toEqual([]);
});

test("a folder that is allowed allows what is below it, and nothing beside it", () => {
  const policy = { hostPaths: ["/data/shared"] };
  expect(refused("volumes: ['/data/shared/a:/a', '/data/./shared:/b']", policy)).toEqual([]);
  expect(refused("volumes: ['/data/shared2:/a']", policy)).toHaveLength(1);
  expect(refused("volumes: ['/data/shared/../x:/a']", policy)).toHaveLength(1);
  expect(refused("volumes: ['/data:/a']", policy)).toHaveLength(1);
  expect(refused("volumes: ['/data/shared:/a']", { hostPaths: ["data/shared", "/data/x/../shared", ""] })).toHaveLength(
    1,
  );
});

test.each(["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"])(
  "%s needs to be named itself: a folder above it is not enough",
  (socket) => {
    expect(refused(`volumes: ['${socket}:/s']`, { hostPaths: ["/", "/var/run", "/run"] })).toHaveLength(1);
    expect(refused(`volumes: ['${socket}:/s']`, { hostPaths: [socket] })).toEqual([]);
  },
);

test("no type and no spelling of options makes a bind mount of a volume unseen", () => {
  const volume = (options: string) =>
    checkPolicy(asked(`services: {a: {image: i}}\nvolumes: {v: {driver_opts: ${options}}}`), {
      drivers: ["volume=local:tmpfs"],
    }).map(({ reason }) => reason);
  expect(volume("{type: tmpfs, o: 'size=1m,mode=700', device: tmpfs}")).toEqual([]);
  expect(volume("{type: tmpfs, o: rbind, device: /etc}")).toEqual(["POLICY_HOST_PATH"]);
  expect(volume("{type: none, o: ' bind', device: /etc}")).toEqual(["POLICY_HOST_PATH"]);
  expect(volume("{device: /etc}")).toEqual(["POLICY_HOST_PATH"]);
  expect(volume("{type: nfs, o: 'addr=1.1.1.1,bind', device: /etc}")).toEqual(["POLICY_HOST_PATH", "POLICY_DRIVER"]);
  expect(volume("{type: overlay, o: 'lowerdir=/etc'}")).toEqual(["POLICY_DRIVER"]);
});

test("an option of a volume in other letters than the engine's is refused, whatever stands beside it", () => {
  const text = "services: {a: {image: i}}\nvolumes: {v: {driver_opts: OPTIONS}}";
  const read = (options: string) =>
    parseCompose({ name: "x", files: [{ name: "f", text: text.replace("OPTIONS", options) }] });
  const both = read("{TYPE: tmpfs, O: size=1m, type: none, o: bind, device: /}");
  expect(both.errors.map(({ reason, path }) => `${reason} ${path}`)).toEqual([
    "VALUE_INVALID volumes.v.driver_opts.O",
    "VALUE_INVALID volumes.v.driver_opts.TYPE",
  ]);
  expect(checkPolicy(both.asks, {}).map(({ reason }) => reason)).toEqual(["POLICY_HOST_PATH", "POLICY_DRIVER"]);
  expect(read("{type: none, o: bind}").errors.map(({ reason }) => reason)).toEqual(["HOST_PATH_RELATIVE"]);
});

test("a folder that holds an engine's socket or data is to be named itself, as the socket is", () => {
  const above = ["/run", "/var/run", "/run/user", "/run/user/1000", "/var", "/var/lib"];
  const own = [
    "/run/docker",
    "/var/run/podman",
    "/run/user/1000/podman",
    "/var/lib/docker/overlay2",
    "/var/lib/bowline",
    "/dev/shm/bowline/agent",
  ];
  for (const path of [...above, ...own]) {
    expect([path, refused(`volumes: ['${path}:/x']`, { hostPaths: ["/"] }).length]).toEqual([path, 1]);
    expect([path, refused(`volumes: ['${path}:/x']`, { hostPaths: [path] }).length]).toEqual([path, 0]);
  }
  const parents = { hostPaths: ["/var", "/run/user/1000"] };
  for (const path of ["/var/run", "/var/lib/docker", "/var/lib", "/run/user/1000/docker"])
    expect([path, refused(`volumes: ['${path}:/x']`, parents).length]).toEqual([path, 1]);
  for (const path of ["/var/log", "/var/run/app", "/run/udev", "/var/lib/app", "/run/user/1000/bus", "/srv/docker"])
    expect([path, refused(`volumes: ['${path}:/x']`, { hostPaths: ["/"] }).length]).toEqual([path, 0]);
  expect(
    refused("volumes: ['/var/lib/docker/volumes/a/_data:/x']", { hostPaths: ["/var/lib/docker/volumes"] }),
  ).toEqual([]);
  expect(refused("volumes: ['/var/lib/docker/docker.sock:/x']", { hostPaths: ["/var/lib/docker"] })).toHaveLength(1);
});

test.each([
  ...["/proc/self/root", "/proc/1/root/etc", "/proc/thread-self/cwd", "/proc/1/task/1/root", "/proc//./2"],
  ...["/proc/sys/../self/root", "/dev/fd/3", "/dev/stdin"],
])("%s leads to the whole host, and no folder above it allows it", (path) => {
  const shapes = [
    (at: string) => refused(`volumes: ['${at}:/x:ro']`, { hostPaths: ["/", "/proc", "/proc/1", "/dev"] }),
    (at: string) =>
      refused("user: a", { hostPaths: ["/proc"] }, `volumes: {v: {driver_opts: {type: none, o: bind, device: ${at}}}}`),
  ];
  expect(shapes.map((shape) => shape(path).length)).toEqual([1, 1]);
  expect(shapes.map((shape) => shape("/proc/sys").length)).toEqual([0, 0]);
});

test("a link of a process is allowed where it is named itself", () => {
  expect(refused("volumes: ['/proc/1/root:/x']", { hostPaths: ["/proc/1/root"] })).toEqual([]);
  expect(refused("volumes: ['/proc/1/root/etc:/x']", { hostPaths: ["/proc/1/root"] })).toHaveLength(1);
});

test("the host's network is not to be had as an external network", () => {
  const asks = asked("services: {a: {image: i, networks: [n]}}\nnetworks: {n: {external: true, name: host}}");
  expect(checkPolicy(asks, { externals: ["*"] })).toMatchObject([
    { reason: "POLICY_HOST_NETWORK", path: "networks.n" },
  ]);
});

test("a refusal says where it stands, and what it asked for", () => {
  const [refusal] = checkPolicy(asked("services:\n  web:\n    image: i\n    cap_add:\n      - SYS_PTRACE\n"), {});
  expect(refusal).toMatchObject({ severity: "error", file: "f.yaml", line: 4, path: "services.web.cap_add[0]" });
  expect(refusal?.message).toContain("SYS_PTRACE");
});

test("what a service of an inactive profile asks for is not asked", () => {
  expect(asked("services: {a: {image: i}, b: {image: i, profiles: [debug], privileged: true}}")).toEqual([]);
});
