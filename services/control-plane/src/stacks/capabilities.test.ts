/** What services need of agents: who gets them, what waits, and what is refused before anything is enqueued. */
import { beforeAll, expect, test } from "@jest/globals";
import { ConnectError } from "@connectrpc/connect";
import { parseCompose } from "@bowline/compose";
import { BadRequestSchema, ErrorInfoSchema } from "@bowline/contract/errors";
import { Stack_State } from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import { needsOf, rightsNeeded } from "./needs.ts";
import { dockerCapabilities, startStacks, type Stacking } from "./stacks.fixture.ts";

let slice: Stacking;

beforeAll(async () => {
  slice = await startStacks((await testDatabase()).db);
});

const without = (...lacking: string[]) => dockerCapabilities.filter((one) => !lacking.includes(one));

const needs: [keys: string, need: string, rest?: string][] = [
  ["image: i", "images services.web.image"],
  ["command: [a], read_only: true", "container-options services.web.read_only"],
  ["command: [a], cap_drop: [ALL]", "container-options services.web.cap_drop"],
  ["command: [a], tmpfs: /tmp", "container-options services.web.tmpfs"],
  ["command: [a], healthcheck: {disable: true}", "container-options services.web.healthcheck.disable"],
  ["command: [a], healthcheck: {test: [CMD, ok]}", "health-checks services.web.healthcheck"],
  ["command: [a], volumes: ['data:/data']", "volumes services.web.volumes", "volumes: {data: {}}"],
  ["command: [a], volumes: ['/srv:/data']", "host-paths services.web.volumes"],
  ["command: [a], deploy: {mode: replicated-job}", "jobs services.web.deploy.mode"],
  ["command: [a], networks: [n]", "networks networks.n", "networks: {n: {internal: true}}"],
  ["command: [a], ports: ['80:80'], deploy: {resources: {limits: {memory: 1g}}}", ""],
];

test.each(needs)("a service with {%s} needs %s", (keys, need, rest = "") => {
  const text = `services: {web: {${keys.includes("image:") ? "" : "image: i, "}${keys}}}\n${rest}`;
  const { stack, errors } = parseCompose({ name: "x", files: [{ name: "f.yaml", text }], projectDirectory: "/srv" });
  if (stack === undefined) throw new Error(JSON.stringify(errors));
  const found = stack.services.flatMap((service) => needsOf(stack, service, false));
  expect(found.map(({ capability, path }) => `${capability} ${path}`)).toEqual(need === "" ? [] : [need]);
});

const pinned = "services: {web: {image: i, read_only: true}}";

test("of several agents those get a service that report what it needs", async () => {
  const cluster = await slice.cluster("mixed");
  const plain = await slice.agent(cluster, "plain", {}, without("container-options"));
  const able = await slice.agent(cluster, "able");
  await slice.apply("mixed", "services: {web: {image: i, read_only: true, deploy: {replicas: 4}}}", {
    clusterId: cluster,
  });
  expect(await plain.claim()).toEqual([]);
  expect((await able.spec((await able.claim())[0]!)).workloads).toMatchObject([{ count: 4 }]);
});

test("where no agent reports it yet the stack waits and says what is missing and where, and follows when one comes", async () => {
  const cluster = await slice.cluster("waits");
  await slice.agent(cluster, "plain", {}, without("container-options"));
  const { stack, warnings } = await slice.apply("waits", pinned, { clusterId: cluster });
  expect(warnings).toMatchObject([{ reason: "NO_AGENT", path: "services.web.read_only" }]);
  expect(stack).toMatchObject({
    ...{ reason: "NO_AGENT", conditions: ["NO_AGENT"], targets: [] },
    waiting: [{ service: "web", lacks: [{ capability: "container-options", path: "services.web.read_only" }] }],
  });
  expect(stack?.message).toContain('"container-options"');
  const able = await slice.agent(cluster, "able");
  await slice.placeStacks();
  expect(await able.workOff()).toEqual(["i"]);
  await slice.settle();
  expect(await slice.stacks.getStack({ id: "waits" })).toMatchObject({
    ...{ state: Stack_State.RUNNING, waiting: [], conditions: [], reason: "" },
  });
});

test("a stack of which a part waits says so, though the rest runs", async () => {
  const cluster = await slice.cluster("part");
  const agent = await slice.agent(cluster, "plain", {}, without("volumes"));
  await slice.apply("part", "services: {web: {image: i}, db: {image: d, volumes: ['data:/d']}}\nvolumes: {data: {}}", {
    clusterId: cluster,
  });
  expect(await agent.workOff()).toEqual(["i"]);
  await slice.settle();
  const stack = await slice.stacks.getStack({ id: "part" });
  expect(stack).toMatchObject({ state: Stack_State.RUNNING, conditions: ["NO_AGENT"], waiting: [{ service: "db" }] });
  expect(stack.message).toMatch(/^db waits\. It needs "volumes".*services\.db\.volumes/);
});

test.each([
  ["the cluster allows its agents less", { capabilities: ["images", "gateway-class/embedded"] }, "container-options"],
  ["its runtime has processes, not containers", { runtime: "local" }, "images"],
])("where %s a stack that can never run is refused at its place, and nothing is enqueued", async (why, more, lack) => {
  const name = `never-${lack}`;
  const cluster = await slice.cluster(name, more);
  const agent = await slice.agent(cluster, `${name}-1`);
  for (const dryRun of [true, false]) {
    const error = await slice.apply(name, pinned, { clusterId: cluster, dryRun }).catch((caught: unknown) => caught);
    if (!(error instanceof ConnectError)) throw new Error(`${why}: it was not refused`);
    const [info] = error.findDetails(ErrorInfoSchema);
    expect(info).toMatchObject({ reason: "CAPABILITY_MISSING", metadata: { service: "web", capability: lack } });
    const [violations] = error.findDetails(BadRequestSchema);
    expect(violations?.fieldViolations.map(({ field }) => field)).toContain("services.web.read_only");
  }
  expect(await agent.claim()).toEqual([]);
  expect((await slice.stacks.listStacks({ clusterId: cluster })).stacks).toEqual([]);
});

test("what a cluster does not let its agents have counts as lacking", async () => {
  const cluster = await slice.cluster("narrow", { capabilities: ["images"] });
  const agent = await slice.agent(cluster, "narrow-1");
  await slice.apply("narrow", "services: {web: {image: i}}", { clusterId: cluster });
  expect(await agent.workOff()).toEqual(["i"]);
});

const rights: [keys: string, right: string, rest?: string][] = [
  ["privileged: true", "privileged services.web.privileged"],
  ["network_mode: host", "host-network services.web.network_mode"],
  ["pid: host", "host-namespaces services.web.pid"],
  ["cap_add: [NET_ADMIN]", "capabilities services.web.cap_add"],
  ["devices: [/dev/kvm]", "devices services.web.devices"],
  ["ports: ['80:80']", "published-ports services.web.ports"],
  ["volumes: ['v:/v']", "externals volumes.v", "volumes: {v: {external: true, name: theirs}}"],
  ["networks: [n]", "drivers networks.n", "networks: {n: {driver: macvlan}}"],
  ["read_only: true", ""],
];

test.each(rights)("a service with {%s} wants of its host what its owner may deny: %s", (keys, wanted, rest = "") => {
  const text = `services: {web: {image: i, ${keys}}}\n${rest}`;
  const { stack, errors } = parseCompose({ name: "x", files: [{ name: "f.yaml", text }] });
  if (stack === undefined) throw new Error(JSON.stringify(errors));
  const found = stack.services.flatMap((service) => rightsNeeded(stack, service));
  expect(found.map(({ capability, path }) => `${capability} ${path}`)).toEqual(wanted === "" ? [] : [wanted]);
});

test("a folder in the guise of a volume needs an agent that gives paths of its host", () => {
  const text = `services: {web: {image: i, volumes: ['v:/v']}}\nvolumes: {v: {driver_opts: {o: bind, device: /root}}}`;
  const { stack } = parseCompose({ name: "x", files: [{ name: "f.yaml", text }] });
  const [service] = stack?.services ?? [];
  if (stack === undefined || service === undefined) throw new Error("it was not read");
  expect(needsOf(stack, service, false)).toContainEqual({ capability: "host-paths", path: "volumes.v" });
});

test("a service goes past hosts whose owners deny what it wants, waits where all do, and comes where one stops denying", async () => {
  const cluster = await slice.cluster("denied", {
    policy: { allowedDevices: ["/dev/kvm"] },
    capabilities: ["images", "container-options"], // a restriction of what agents can do hides no denial
  });
  const denies = await slice.agent(cluster, "denies", {}, [...dockerCapabilities, "denies/devices"]);
  const text = "services: {web: {image: i, devices: [/dev/kvm], deploy: {replicas: 2}}}";
  const { stack, warnings } = await slice.apply("denied", text, { clusterId: cluster });
  expect(warnings).toMatchObject([{ reason: "NO_AGENT", path: "services.web.devices" }]);
  expect(stack?.message).toContain('needs "devices", which the owners of all hosts');
  const other = await slice.agent(cluster, "other", {}, [...dockerCapabilities, "denies/exec"]);
  await slice.placeStacks();
  expect(await denies.claim()).toEqual([]);
  expect((await other.spec((await other.claim())[0]!)).workloads).toMatchObject([{ count: 2 }]);
});
