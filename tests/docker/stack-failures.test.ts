/**
 * What a host cannot do reaches whoever typed `stack up`: the reason, the words of the engine or the last lines of the
 * container, and exit code 1; what ran before serves on, and a client that keeps asking it never notices.
 */
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { Rollout_State, Stack_State as State } from "@bowline/contract/stacks";
import { atEnd, freePort, ownDocker, temporaryFolder, testRegistry, until } from "@bowline/testing";
import { answering, keepAsking } from "./asking.ts";
import { busybox, idle } from "./beside.ts";
import { dockerHosts, settledWithinMs } from "./stacks.fixture.ts";

const hosts = await dockerHosts(["a"]);
const { docker, api, bowline, cluster } = hosts;
const registry = await testRegistry({ users: { robot: "secret" } });
const folder = temporaryFolder();
const port = await freePort();
const check = { interval: "1s", timeout: "20s", retries: 2 };

const web = {
  ...{ image: busybox, command: answering("v1"), init: false, stop_signal: "SIGKILL" },
  ports: [`127.0.0.1:${port}:8080`],
  healthcheck: { test: ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"], ...check },
};

/** `stack up` of these services, one try each. */
async function up(services: object, ...flags: string[]) {
  const file = join(folder, "compose.yaml");
  writeFileSync(file, JSON.stringify({ services }));
  const policy = ["--order", "start-first", "--min-healthy-time", "0", "--max-retries", "0"];
  return await bowline("stack", "up", "-f", file, "--name", "shop", "--to", cluster, ...policy, ...flags);
}

const first = await up({ web });
if (first.code !== 0) throw new Error(first.output);
const asking = keepAsking(port);
await until(() => asking.seen.includes("v1"), { withinMs: settledWithinMs, what: "the first version answers" });

/** Somebody else's port of the host, held by a process. */
async function takenPort(): Promise<number> {
  const holder = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => holder.once("listening", resolve));
  atEnd(() => new Promise<void>((resolve) => holder.close(() => resolve())));
  return (holder.address() as { port: number }).port;
}

/** The same, held by a stranger's container. */
async function publishedPort(): Promise<number> {
  const taken = await freePort();
  const { Id: network } = (await docker.ask("POST", "/networks/create", { Name: "stranger" })) as { Id: string };
  atEnd(() => docker.ask("DELETE", `/networks/${network}`).then(() => undefined));
  const { Id } = (await docker.ask("POST", "/containers/create?name=stranger", {
    ...{ Image: busybox, Cmd: idle, ExposedPorts: { "80/tcp": {} } },
    HostConfig: {
      NetworkMode: "stranger",
      PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: `${taken}` }] },
    },
  })) as { Id: string };
  atEnd(() => docker.ask("DELETE", `/containers/${Id}?force=1`).then(() => undefined));
  await docker.ask("POST", `/containers/${Id}/start`);
  return taken;
}

const beside = { image: busybox, command: idle };
const stopFirst = { update_config: { order: "stop-first" } };

/** What is changed, and what is told of it. */
const cases: [
  what: string,
  services: () => object | Promise<object>,
  reason: string,
  words: RegExp[],
  flags?: string[],
][] = [
  [
    "an image that is refused",
    () => ({ web: { ...web, image: `${registry.address}/shop/web:2` } }),
    "IMAGE_UNAVAILABLE",
    [/image 127\.0\.0\.1:\d+\/shop\/web:2: the registry 127\.0\.0\.1:\d+ denied it without a credential/],
  ],
  [
    "a name that no image can have",
    () => ({ web: { ...web, image: "shop/WEB" } }),
    "IMAGE_UNAVAILABLE",
    [/image shop\/WEB: this is no reference of an image/],
  ],
  [
    "a container that crashes",
    () => ({ web: { ...web, command: ["sh", "-c", "echo the till is empty; exit 3"], restart: "always" } }),
    "START_FAILED",
    [/workload web ended with exit code 3/, /the till is empty/],
  ],
  [
    "a health check that fails",
    () => ({
      web: {
        ...{ ...web, command: ["sh", "-c", `echo listening on nothing; ${idle[2]}`] },
        healthcheck: { ...check, test: ["CMD-SHELL", "echo no cash; exit 1"] },
      },
    }),
    "UNHEALTHY",
    [/workload web runs, but is not healthy: exit code 1: no cash/, /listening on nothing/],
  ],
  [
    "one that is not healthy in its time",
    () => ({
      web: {
        ...{ ...web, command: ["sh", "-c", `echo waiting for the till; ${idle[2]}`] },
        healthcheck: { ...check, test: ["CMD-SHELL", "echo no cash yet; exit 1"], start_period: "10m" },
      },
    }),
    "HEALTHY_DEADLINE",
    [
      /not healthy within 8 s/,
      /a: web is not healthy yet: exit code 1: no cash yet; it wrote:\n *waiting for the till/,
    ],
    ["--healthy-deadline", "8s"],
  ],
  [
    "a port that a process has",
    async () => ({ web, beside: { ...beside, ports: [`127.0.0.1:${await takenPort()}:80`] } }),
    "PORT_TAKEN",
    [/port \d+ on 127\.0\.0\.1 \(beside-80-\d+ .*\) is in use by another program/],
  ],
  [
    "a port that a stranger's container has",
    async () => ({ web, beside: { ...beside, ports: [`127.0.0.1:${await publishedPort()}:80`], deploy: stopFirst } }),
    "PORT_TAKEN",
    [/beside: port \d+ is in use on the host/],
  ],
  [
    "a disk that is full",
    () => {
      const command = ["sh", "-c", "dd if=/dev/zero of=/data/file bs=64k count=64"];
      return { web, beside: { image: busybox, command, tmpfs: "/data:size=1m" } };
    },
    "START_FAILED",
    [/workload beside ended with exit code 1/, /No space left on device/],
  ],
];

test.each(cases)(
  "%s is told with its reason, at exit code 1; what ran before serves on",
  async (_, services, reason, words, flags = []) => {
    const { code, stderr } = await up(await services(), ...flags);
    expect([code, stderr]).toEqual([1, expect.stringMatching(new RegExp(`^${reason}$`, "m"))]);
    for (const word of words) expect(stderr).toMatch(word);
    expect(stderr).toContain("It went back: r1 runs.");
    const [, failed] = (await api.rollouts.listRollouts({ stackId: "shop" })).rollouts;
    const told = await api.rollouts.getRollout({ id: failed?.id ?? "" });
    expect(told).toMatchObject({ state: Rollout_State.ROLLED_BACK, reason });
    for (const word of words) expect(told.message).toMatch(word);
    expect(await hosts.runs("shop")).toMatchObject({ revision: 1, stableRevision: 1 });
    expect(await hosts.containers("shop")).toEqual(["web-0 running"]);
    expect([asking.seen, asking.failures]).toEqual([["v1"], []]);
  },
  300_000,
);

test("what a host cannot do that comes after the stack fails it as well", async () => {
  const image = `${registry.address}/shop/web:2`;
  await hosts.apply(
    "early",
    `services: { web: { image: "${image}", deploy: { placement: { constraints: [node.labels.zone == z] } } } }`,
  );
  expect(await hosts.reaches("early", State.RUNNING)).toMatchObject({ conditions: ["NO_AGENT"], targets: [] });
  await hosts.join("z");
  expect(await hosts.reaches("early", State.FAILED)).toMatchObject({
    reason: "IMAGE_UNAVAILABLE",
    message: expect.stringContaining("denied it without a credential"),
  });
  await hosts.down("early");
});

test("an engine whose disk is full says so to whoever waits for the stack", async () => {
  const large = join(temporaryFolder(), "large");
  writeFileSync(large, randomBytes(24_000_000));
  await docker.importBusybox("testing/large:1", { "/large": large });
  const open = await testRegistry();
  const { reference } = await open.push(docker, "testing/large:1", "large/image:1");
  const small = await dockerHosts(["a"], { engine: await ownDocker({ diskBytes: 24 * 1024 * 1024 }) });
  const text = `services: { web: { image: "${reference}", command: ${JSON.stringify(idle)} } }`;
  const { id, rollout } = await small.apply("shop", text, {}, { maxRetries: 0 });
  expect(await small.rolled(rollout?.id ?? "")).toMatchObject({
    ...{ state: Rollout_State.FAILED, reason: "DISK_FULL", message: expect.stringMatching(/large.*no space left/) },
  });
  expect(await small.reaches("shop", State.FAILED)).toMatchObject({ id, reason: "DISK_FULL" });
  await small.down("shop");
});
