/** A Compose file from a stranger gets nothing of the host unless the cluster's policy allows it by name. */
import { beforeAll, expect, test } from "@jest/globals";
import { ConnectError } from "@connectrpc/connect";
import { BadRequestSchema } from "@bowline/contract/errors";
import { RolloutPolicy_Strategy, Stack_State } from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import { reasonOf } from "../platform/in-process.ts";
import { dockerCapabilities, startStacks, type Stacking } from "./stacks.fixture.ts";

let slice: Stacking;
let made = 0;
let shared: Awaited<ReturnType<typeof place>>;

beforeAll(async () => {
  slice = await startStacks((await testDatabase()).db);
  shared = await place();
});

async function place() {
  made += 1;
  const name = `place-${made}`;
  const clusterId = await slice.cluster(name);
  const agent = await slice.agent(clusterId, `${name}-1`, {}, [...dockerCapabilities, "host-paths"]);
  return { name, clusterId, agent };
}

const allow = (clusterId: string, policy: object) =>
  slice.operator.updateCluster({ cluster: { id: clusterId, policy }, updateMask: { paths: ["policy"] } });
const file = (keys: string, rest = ""): string => `services:\n  web:\n    image: i\n    ${keys}\n${rest}`;
const source = (text: string) => ({ files: [{ name: "compose.yaml", content: Buffer.from(text) }] });

async function violationsOf(call: Promise<unknown>): Promise<string[]> {
  const error = await call.catch((caught: unknown) => caught);
  if (!(error instanceof ConnectError)) throw new Error("it was not refused");
  return error.findDetails(BadRequestSchema).flatMap((one) => one.fieldViolations.map(({ field }) => field));
}

const asks: [what: string, keys: string, reason: string, path: string, policy: object, rest?: string][] = [
  ["the root", "volumes: ['/:/host']", "POLICY_HOST_PATH", "services.web.volumes[0]", { allowHostPaths: true }],
  ["a folder", "volumes: ['/srv/a:/a']", "POLICY_HOST_PATH", "services.web.volumes[0]", { allowedHostPaths: ["/srv"] }],
  [
    "the engine's socket",
    "volumes: ['/var/run/docker.sock:/s']",
    "POLICY_HOST_PATH",
    "services.web.volumes[0]",
    { allowedHostPaths: ["/var/run/docker.sock"] },
  ],
  [
    "a folder in the guise of a volume",
    "volumes: ['v:/v']",
    "POLICY_HOST_PATH",
    "volumes.v.driver_opts.device",
    { allowedHostPaths: ["/root"] },
    "volumes: {v: {driver_opts: {type: none, o: bind, device: /root}}}",
  ],
  ["the network", "network_mode: host", "POLICY_HOST_NETWORK", "services.web.network_mode", { allowHostNetwork: true }],
  ["privileges", "privileged: true", "POLICY_PRIVILEGED", "services.web.privileged", { allowPrivileged: true }],
  [
    "a capability",
    "cap_add: [SYS_ADMIN]",
    "POLICY_CAPABILITY",
    "services.web.cap_add[0]",
    { allowedCapabilities: ["SYS_ADMIN"] },
  ],
  ["processes", "pid: host", "POLICY_HOST_NAMESPACE", "services.web.pid", { allowHostNamespaces: true }],
  ["memory", "ipc: host", "POLICY_HOST_NAMESPACE", "services.web.ipc", { allowHostNamespaces: true }],
  ["a device", "devices: [/dev/kvm]", "POLICY_DEVICE", "services.web.devices[0]", { allowedDevices: ["/dev/kvm"] }],
  [
    "less isolation",
    "security_opt: ['seccomp:unconfined']",
    "POLICY_SECURITY_OPTION",
    "services.web.security_opt[0]",
    { allowedSecurityOptions: ["seccomp:unconfined"] },
  ],
  [
    "a kernel parameter",
    "sysctls: {kernel.panic: 1}",
    "POLICY_SYSCTL",
    'services.web.sysctls["kernel.panic"]',
    { allowedSysctls: ["kernel.panic"] },
  ],
  [
    "somebody else's volume",
    "volumes: ['v:/v']",
    "POLICY_EXTERNAL",
    "volumes.v",
    { allowedExternals: ["volume:theirs"] },
    "volumes: {v: {external: true, name: theirs}}",
  ],
  [
    "a driver of networks",
    "networks: [n]",
    "POLICY_DRIVER",
    "networks.n.driver",
    { allowedDrivers: ["network=macvlan"] },
    "networks: {n: {driver: macvlan}}",
  ],
];

test.each(asks)(
  "%s of a host is refused at its place by validate, dry run and apply, and allowed where the policy names it",
  async (_what, keys, reason, path, policy, rest = "") => {
    const { name, clusterId } = shared;
    const text = file(keys, rest);
    const found = async () => (await slice.stacks.validateStack({ source: source(text), clusterId })).errors;
    await allow(clusterId, {});
    expect((await found()).map((error) => [error.reason, error.path])).toEqual([[reason, path]]);
    for (const dryRun of [true, false]) {
      const refused = slice.apply(name, text, { clusterId, dryRun });
      expect(await reasonOf(refused)).toBe("COMPOSE_REFUSED_BY_POLICY");
      const [field, ...others] = await violationsOf(refused);
      expect([field?.startsWith("compose.yaml:"), field?.endsWith(` ${path}`), others]).toEqual([true, true, []]);
    }
    await allow(clusterId, policy);
    expect(await found()).toEqual([]);
  },
);

test("nothing of what was refused was enqueued, and what is allowed by name runs", async () => {
  const { name, clusterId, agent } = shared;
  expect(await agent.claim()).toEqual([]);
  expect((await slice.stacks.listStacks({ clusterId })).stacks).toEqual([]);
  await allow(clusterId, { allowedCapabilities: ["SYS_ADMIN"], allowedHostPaths: ["/srv"] });
  await slice.apply(name, file("cap_add: [SYS_ADMIN]\n    volumes: ['/srv/a:/a']"), { clusterId });
  expect(await agent.workOff()).toEqual(["i"]);
});

test("relative paths start in the folder of the hosts that is named, and are asked of the policy like all others", async () => {
  const { name, clusterId, agent } = await place();
  const text = file("volumes: ['./data:/data', '../../etc:/e']");
  const apply = (hostDirectory: string) =>
    slice.stacks.applyStack({ name, clusterId, source: { ...source(text), hostDirectory } });
  expect(await reasonOf(apply(""))).toBe("COMPOSE_INVALID");
  expect(await reasonOf(apply("srv/shop"))).toBe("INVALID_ARGUMENT");
  expect(await violationsOf(apply("/srv/shop"))).toHaveLength(2);
  await allow(clusterId, { allowedHostPaths: ["/srv"] });
  expect(await violationsOf(apply("/srv/shop"))).toEqual([expect.stringContaining("services.web.volumes[1]")]);
  await apply("/srv/shop/deep");
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing was claimed");
  const paths = (await agent.spec(command)).workloads.flatMap(({ mounts }) => mounts.map(({ source: at }) => at.value));
  expect(paths).toEqual(["/srv/shop/deep/data", "/srv/etc"]);
});

test("ports are any until the policy names some", async () => {
  const { name, clusterId, agent } = await place();
  const update = (allowedPublishedPorts: string[]) =>
    slice.operator.updateCluster({
      cluster: { id: clusterId, policy: { allowedPublishedPorts } },
      updateMask: { paths: ["policy.allowed_published_ports"] },
    });
  await slice.apply(name, file("ports: ['80:80']"), { clusterId });
  expect(await agent.workOff()).toEqual(["i"]);
  await update(["8000-8999"]);
  const refused = slice.apply(name, file("ports: ['8080:80', '443:443']"), { clusterId });
  expect(await violationsOf(refused)).toEqual([expect.stringContaining("services.web.ports[1]")]);
  expect(await reasonOf(update(["http"]))).toBe("INVALID_ARGUMENT");
});

test("a revision of before the policy became narrower is not rolled out again", async () => {
  const { name, clusterId, agent } = await place();
  await allow(clusterId, { allowedCapabilities: ["NET_ADMIN"], allowedHostPaths: ["/srv"] });
  // As large as a revision may be: its file would be too long to be read again.
  const config = "\n    configs: [large]";
  const referred = [{ name: "./large", content: Buffer.alloc(600 * 1024, "x") }];
  await slice.apply(
    name,
    file(`cap_add: [NET_ADMIN]\n    volumes: ['/srv/a:/a:ro']${config}`, "configs: { large: { file: ./large } }"),
    { clusterId, referred },
  );
  await agent.workOff();
  await slice.settle();
  await slice.apply(name, file("read_only: true"), { clusterId });
  await agent.workOff();
  await slice.settle();
  await allow(clusterId, {});
  const refused = slice.stacks.rollbackStack({ id: name });
  expect(await reasonOf(refused)).toBe("COMPOSE_REFUSED_BY_POLICY");
  expect((await violationsOf(refused)).map((field) => field.split(" ")[1] ?? "").toSorted()).toEqual([
    "services.web.cap_add[0]",
    "services.web.volumes[0]",
  ]);
  await allow(clusterId, { allowedCapabilities: ["NET_ADMIN"], allowedHostPaths: ["/srv"] });
  expect((await slice.stacks.rollbackStack({ id: name })).revision).toBe(1);
});

test("after the policy became narrower nothing more of a stack starts: no restart, no start, no placement; stopping goes", async () => {
  const { name, clusterId, agent } = await place();
  await allow(clusterId, { allowPrivileged: true });
  await slice.apply(name, file("privileged: true\n    deploy: { mode: global }"), { clusterId });
  expect(await agent.workOff()).toEqual(["i"]);
  await slice.settle();
  await allow(clusterId, {});
  expect(await reasonOf(slice.stacks.restartStack({ id: name }))).toBe("COMPOSE_REFUSED_BY_POLICY");
  const came = await slice.agent(clusterId, `${name}-2`);
  await slice.placeStacks();
  expect(await came.claim()).toEqual([]);
  const refused = await slice.stacks.getStack({ id: name });
  expect(refused).toMatchObject({ state: Stack_State.RUNNING, reason: "COMPOSE_REFUSED_BY_POLICY" });
  expect(refused.message).toContain("services.web.privileged");
  await slice.stacks.stopStack({ id: name });
  for (const one of [agent, came]) {
    expect(await one.workOff()).toEqual(["i"]); // as stopped
    await slice.settle();
  }
  expect(await reasonOf(slice.stacks.startStack({ id: name }))).toBe("COMPOSE_REFUSED_BY_POLICY");
  expect((await slice.stacks.getStack({ id: name })).state).toBe(Stack_State.STOPPED);
  await allow(clusterId, { allowPrivileged: true });
  await slice.stacks.startStack({ id: name });
  for (const one of [agent, came]) expect(await one.workOff()).toEqual(["i"]);
});

test("a rollout that waits for a person is neither resumed nor promoted against the policy, and goes back all the same", async () => {
  const { name, clusterId, agent } = await place();
  await slice.apply(name, file("read_only: true"), { clusterId });
  await agent.workOff();
  await slice.settle();
  await allow(clusterId, { allowPrivileged: true });
  const policy = { strategy: RolloutPolicy_Strategy.CANARY, minHealthyTime: { seconds: 0n } };
  await slice.apply(name, file("privileged: true"), { clusterId, policy });
  await agent.workOff();
  await slice.settle();
  const { rollout } = await slice.stacks.getStack({ id: name });
  const id = rollout?.id ?? "";
  await allow(clusterId, {});
  expect(await reasonOf(slice.rollouts.promoteRollout({ id }))).toBe("COMPOSE_REFUSED_BY_POLICY");
  await slice.rollouts.pauseRollout({ id });
  expect(await reasonOf(slice.rollouts.resumeRollout({ id }))).toBe("COMPOSE_REFUSED_BY_POLICY");
  await slice.rollouts.abortRollout({ id });
  await agent.workOff();
  await slice.settle();
  expect(await slice.stacks.getStack({ id: name })).toMatchObject({ state: Stack_State.RUNNING, revision: 1 });
});

test.each([
  { allowedHostPaths: ["srv"] },
  { allowedHostPaths: Array.from({ length: 65 }, (_, index) => `/${index}`) },
  { allowedCapabilities: [""] },
  { allowedPublishedPorts: ["1-2-3"] },
])("a policy that says nothing readable is refused: %j", async (policy) => {
  const { clusterId } = await place();
  const update = slice.operator.updateCluster({
    cluster: { id: clusterId, policy },
    updateMask: { paths: ["policy"] },
  });
  expect(await reasonOf(update)).toBe("INVALID_ARGUMENT");
});
