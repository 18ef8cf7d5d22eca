/** What goes wrong on a host: the reason says which, with the words of the engine or the last lines of the container. */
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import {
  freePort,
  ownDocker,
  type Pushed,
  startTcpProxy,
  temporaryFolder,
  testDocker,
  testRegistry,
  type TestRegistry,
  until,
} from "@bowline/testing";
import { besideEngine, busybox, idle } from "./beside.ts";

const web = { name: "web", image: busybox, command: idle };
/** What ends soon ends before it counts as there, however busy the machine is. */
const patient = { settleMs: 20_000 };
const interval = { seconds: 0n, nanos: 100_000_000 };

test("an image that its registry does not have, a registry that refuses, and one that is away are told apart", async () => {
  const { run, docker } = await besideEngine();
  const registry = await testRegistry({ users: { robot: "secret" } });
  const { reference } = await registry.push(docker, busybox, "shop/web:1");
  const missing = { ...web, image: `${registry.address}/shop/none:1` };
  expect(await run([{ ...web, image: reference }])).toMatchObject({
    ...{ kind: "failed", reason: "IMAGE_UNAVAILABLE", worthRetry: false },
    message: expect.stringMatching(/no basic auth credentials|unauthorized/),
  });
  const allowed = await besideEngine({ openSecret: (sealed) => Promise.resolve(Buffer.from(sealed)) });
  const credential = JSON.stringify({ username: "robot", password: "secret" });
  const rest = { sealedRegistries: { [registry.address]: credential } };
  expect(await allowed.run([missing], rest)).toMatchObject({
    ...{ kind: "failed", reason: "IMAGE_UNAVAILABLE", worthRetry: false },
    message: expect.stringContaining("manifest unknown"),
  });
  const nobody = `127.0.0.1:${await freePort()}/shop/web:1`;
  expect(await allowed.run([{ ...web, image: nobody }])).toMatchObject({
    ...{ kind: "failed", reason: "IMAGE_UNAVAILABLE", worthRetry: true },
    message: expect.stringContaining("connection refused"),
  });
  expect(await allowed.run([{ ...web, image: reference }], rest)).toEqual({ kind: "succeeded" });
  await docker.ask("DELETE", `/images/${reference}?force=1&noprune=1`);
});

test("a container that crashes again and again says its last lines, and only those", async () => {
  const { run } = await besideEngine({ times: patient });
  const source = "i=0; while [ $i -lt 1000 ]; do echo line $i of many; i=$((i+1)); done; echo no database; exit 3";
  const end = await run([{ ...web, command: ["sh", "-c", source] }]);
  expect(end).toMatchObject({ kind: "failed", reason: "START_FAILED" });
  const { message } = end as { message: string };
  expect(message).toContain("workload web ended with exit code 3");
  expect(message).toContain("line 999 of many\nno database");
  expect(message.length).toBeLessThan(3_000);
});

test("a health check that fails says what it said, with the container's last lines", async () => {
  const { run } = await besideEngine();
  const probe = { case: "exec" as const, value: { command: ["sh", "-c", "echo cannot reach the cache; exit 1"] } };
  const healthCheck = { probe, interval, timeout: { seconds: 20n }, retries: 2 };
  const command = ["sh", "-c", `echo listening on nothing; ${idle[2]}`];
  const end = await run([{ ...web, command, healthCheck }]);
  expect(end).toMatchObject({ kind: "failed", reason: "UNHEALTHY" });
  expect((end as { message: string }).message).toContain(
    "exit code 1: cannot reach the cache; it wrote:\nlistening on nothing",
  );
});

test("a port that somebody has is named", async () => {
  const { run } = await besideEngine();
  const holder = createServer().listen(0, "0.0.0.0");
  await new Promise((resolve) => holder.once("listening", resolve));
  const { port } = holder.address() as { port: number };
  try {
    expect(await run([{ ...web, ports: [{ name: "http", container: 80, published: port }] }])).toMatchObject({
      ...{ kind: "failed", reason: "PORT_TAKEN", worthRetry: true },
      message: expect.stringContaining(`port ${port} is in use on the host`),
    });
  } finally {
    await new Promise((resolve) => holder.close(resolve));
  }
});

/** An image of 24 MB that nothing makes smaller. */
async function pushLarge(): Promise<{ registry: TestRegistry } & Pushed> {
  const shared = await testDocker();
  const folder = temporaryFolder();
  writeFileSync(join(folder, "large"), randomBytes(24_000_000));
  await shared.importBusybox("testing/large:1", { "/large": join(folder, "large") });
  const registry = await testRegistry();
  return { registry, ...(await registry.push(shared, "testing/large:1", "large/image:1")) };
}

test("an engine whose disk is too small for an image says so", async () => {
  const { reference } = await pushLarge();
  const { run } = await besideEngine({}, await ownDocker({ diskBytes: 24 * 1024 * 1024 }));
  expect(await run([{ ...web, image: reference }])).toMatchObject({
    ...{ kind: "failed", reason: "DISK_FULL", worthRetry: true },
    message: expect.stringMatching(/large\/image:1.*no space left/),
  });
});

test("a volume that is full is in the last lines of the container", async () => {
  const { run } = await besideEngine({ times: patient });
  const volumes = [{ name: "data", driver: "local", driverOptions: { type: "tmpfs", device: "tmpfs", o: "size=1m" } }];
  const command = ["sh", "-c", "dd if=/dev/zero of=/data/file bs=64k count=64"];
  const mounts = [{ path: "/data", source: { case: "volume" as const, value: "data" } }];
  expect(await run([{ ...web, command, mounts }], { volumes })).toMatchObject({
    ...{ kind: "failed", reason: "START_FAILED" },
    message: expect.stringContaining("No space left on device"),
  });
});

test("a pull by digest is told in bytes while it goes on", async () => {
  const { registry, pinned } = await pushLarge();
  const proxy = await startTcpProxy({ host: "127.0.0.1", port: registry.port });
  proxy.throttle(8_000_000);
  const image = pinned.replace(registry.address, `127.0.0.1:${proxy.port}`);
  const { run, reports } = await besideEngine({}, await ownDocker());
  expect(await run([{ ...web, image }])).toEqual({ kind: "succeeded" });
  const pulls = reports.filter(({ phase }) => phase === "PULLING").map(({ workloads }) => workloads[0]);
  expect(pulls.length).toBeGreaterThan(5);
  const percents = pulls.map((told) => told?.percent ?? 0);
  expect(percents).toEqual(percents.toSorted((a, b) => a - b));
  expect(pulls.at(1)).toMatchObject({
    ...{ workload: "web", phase: "PULLING" },
    message: expect.stringMatching(/: \d+\.\d of \d+\.\d MB$/),
  });
});

test("an engine that is away is a problem that is told, and passes; what ran runs again, once", async () => {
  const docker = await ownDocker();
  const { run, runtime, containers } = await besideEngine(
    { times: { settleMs: 300, pingEveryMs: 200, pingWithinMs: 20_000 } },
    docker,
  );
  expect(await run([web])).toEqual({ kind: "succeeded" });
  await docker.halt();
  await until(async () => (await runtime.describe()).problem.includes("the Docker Engine"), { withinMs: 60_000 });
  const asked = await run([{ ...web, environment: { NEW: "1" } }]);
  expect(asked).toMatchObject({ kind: "failed", worthRetry: true });
  expect((asked as { message: string }).message).toContain("the Docker Engine does not answer");
  await docker.start();
  await until(async () => (await runtime.describe()).problem === "", { withinMs: 60_000 });
  const running = async () => (await runtime.list())[0]?.instances.map(({ phase }) => phase).join();
  await until(async () => (await running()) === "RUNNING", { withinMs: 60_000 });
  expect(await run([{ ...web, environment: { NEW: "1" } }])).toEqual({ kind: "succeeded" });
  expect(await containers()).toHaveLength(1);
});
