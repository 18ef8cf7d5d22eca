/** What only the local runtime does; what all do is in tests/conformance/runtimes. */
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { ConvergeEnd, Runtime } from "@bowline/agent-core";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import type { Deployment } from "@bowline/contract/deployments";
import { atEnd, isRunning, startProcess, temporaryFolder, until } from "@bowline/testing";
import { createLocalRuntime } from "./runtime.ts";
import type { LocalRuntimeOptions } from "./runtime.ts";

type Spec = Exclude<MessageInitShape<typeof DeploymentSchema>, Deployment>;
type WorkloadInit = NonNullable<Spec["workloads"]>[number];

const forwarderProgram = fileURLToPath(new URL("../../forwarder/src/main.ts", import.meta.url));

const id = "deployment_local";
const quiet = { info: () => {}, warn: () => {}, error: () => {} };
const times = { backoffFirstMs: 50, settleMs: 100 };

async function open(dataDir = temporaryFolder(), rest: Partial<LocalRuntimeOptions> = {}): Promise<Runtime> {
  const runtime = await createLocalRuntime({ dataDir, log: quiet, times, ...rest });
  atEnd(() => runtime.close({ stopWorkloads: true }));
  return runtime;
}

const converge = (runtime: Runtime, spec: Spec): Promise<ConvergeEnd> =>
  runtime.converge(
    create(DeploymentSchema, { id, generation: 1, desired: Deployment_Desired.RUNNING, ...spec }),
    () => {},
    new AbortController().signal,
  );
const absent = (runtime: Runtime) =>
  converge(runtime, { generation: 99, desired: Deployment_Desired.ABSENT, removeVolumes: true });

const sleeper: WorkloadInit = { name: "web", command: ["sleep", "1000"] };

const unsupported: [string, Spec][] = [
  ["an image without a command", { workloads: [{ name: "web", image: "nginx" }] }],
  [
    "a path of the host",
    { workloads: [{ ...sleeper, mounts: [{ source: { case: "hostPath", value: "/etc" }, path: "/etc" }] }] },
  ],
  ["an external network", { workloads: [sleeper], networks: [{ name: "n", externalName: "theirs" }] }],
  ["a closed network", { workloads: [sleeper], networks: [{ name: "n", internal: true }] }],
  ["an external volume", { workloads: [sleeper], volumes: [{ name: "v", externalName: "theirs" }] }],
  ["a storage class", { workloads: [sleeper], volumes: [{ name: "v", storageClass: "fast" }] }],
  [
    "mounts inside one another",
    {
      workloads: [
        {
          ...sleeper,
          mounts: [
            { source: { case: "volume", value: "v" }, path: "/data" },
            { source: { case: "file", value: "f" }, path: "/data/file" },
          ],
        },
      ],
      volumes: [{ name: "v" }],
      files: [{ name: "f" }],
    },
  ],
  [
    "secrets, where the agent opens none",
    { workloads: [{ ...sleeper, secrets: [{ variable: "KEY", secret: "k" }] }], sealedSecrets: { k: "sealed" } },
  ],
];
for (const [what, spec] of unsupported) {
  test(`${what} is UNSUPPORTED, and nothing is left of the attempt`, async () => {
    const runtime = await open();
    expect(await converge(runtime, spec)).toMatchObject({ kind: "failed", reason: "UNSUPPORTED", worthRetry: false });
    expect(await runtime.list()).toEqual([]);
  });
}

test("an id that is a path is SPEC_INVALID and touches nothing", async () => {
  const dataDir = temporaryFolder();
  const runtime = await open(join(dataDir, "agent"));
  for (const bad of ["../../escaped", "", "a/b", "."]) {
    for (const desired of [Deployment_Desired.RUNNING, Deployment_Desired.ABSENT]) {
      expect(await converge(runtime, { id: bad, desired })).toMatchObject({ kind: "failed", reason: "SPEC_INVALID" });
    }
  }
  expect(readdirSync(dataDir)).toEqual(["agent"]);
});

test("a secret reaches the process, and no file", async () => {
  const dataDir = temporaryFolder();
  const runtime = await open(dataDir, {
    openSecret: async (sealed) => Buffer.from(sealed.replace("sealed-", "open-")),
  });
  const workload = {
    name: "web",
    command: ["sh", "-c", 'test "$KEY" = open"-"sesame && sleep 1000'],
    secrets: [{ variable: "KEY", secret: "k" }],
  };
  expect(await converge(runtime, { workloads: [workload], sealedSecrets: { k: "sealed-sesame" } })).toEqual({
    kind: "succeeded",
  });
  const files = readdirSync(dataDir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  for (const file of files) expect(readFileSync(join(file.parentPath, file.name), "utf8")).not.toContain("open-sesame");
  await absent(runtime);
});

test("a secret as a file is where the process looks for it, byte for byte, for the agent's user alone, and goes with it", async () => {
  const dataDir = temporaryFolder();
  const value = Buffer.from([0, 255, 128, 10, 65]); // no text
  const runtime = await open(dataDir, { openSecret: async () => value });
  const workload = {
    name: "web",
    command: ["sh", "-c", '[ "$(od -An -tu1 <run/secrets/db | tr -d "\\n")" = "   0 255 128  10  65" ] && sleep 1000'],
    mounts: [{ source: { case: "file" as const, value: "db" }, path: "/run/secrets/db" }],
  };
  const spec = { workloads: [workload], files: [{ name: "db", secret: "k", mode: 0o444 }] };
  expect(await converge(runtime, { ...spec, sealedSecrets: { k: "sealed" } })).toEqual({ kind: "succeeded" });
  const holding = () =>
    readdirSync(dataDir, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .filter((path) => readFileSync(path).includes(value));
  expect(holding().map((path) => (statSync(path).mode & 0o777).toString(8))).toEqual(["400"]);
  await absent(runtime);
  expect(holding()).toEqual([]);
});

test("a secret sealed anew with the same value restarts nothing; another value does", async () => {
  const runtime = await open(undefined, { openSecret: async (sealed) => Buffer.from(sealed.split(":")[1] ?? "") });
  const workloads = [{ ...sleeper, secrets: [{ variable: "KEY", secret: "k" }] }];
  const startedAt = async () => (await runtime.list())[0]?.instances[0]?.startedAt;
  await converge(runtime, { workloads, sealedSecrets: { k: "salt1:value" } });
  const first = await startedAt();
  await converge(runtime, { generation: 2, workloads, sealedSecrets: { k: "salt2:value" } });
  expect(await startedAt()).toEqual(first);
  await converge(runtime, { generation: 3, workloads, sealedSecrets: { k: "salt3:other" } });
  expect(await startedAt()).not.toEqual(first);
  await absent(runtime);
});

test("processes whose record is lost are shown and left alone, until ABSENT names them", async () => {
  const dataDir = temporaryFolder();
  const first = await open(dataDir);
  await converge(first, { workloads: [sleeper] });
  await first.close({ stopWorkloads: false });
  rmSync(join(dataDir, "deployments", id), { recursive: true });

  const second = await open(dataDir);
  const [stray] = await second.list();
  expect(stray).toMatchObject({
    deploymentId: id,
    instances: [{ workload: "web", reason: expect.stringContaining("stray") }],
  });
  const pid = Number(/process (\d+)/.exec(stray?.instances[0]?.reason ?? "")?.[1]);
  await converge(second, { id: "deployment_other", workloads: [sleeper] });
  expect(isRunning(pid)).toBe(true);
  await converge(second, { id: "deployment_other", desired: Deployment_Desired.ABSENT });
  expect(await absent(second)).toEqual({ kind: "succeeded" });
  expect(isRunning(pid)).toBe(false);
  expect(await second.list()).toEqual([]);
});

test("records that cannot be read are a problem of that deployment only, and ABSENT clears it", async () => {
  const dataDir = temporaryFolder();
  const first = await open(dataDir);
  await converge(first, { workloads: [sleeper] });
  await converge(first, { id: "deployment_other", workloads: [sleeper] });
  await first.close({ stopWorkloads: false });
  writeFileSync(join(dataDir, "deployments", id, "record.json"), '{"id": "depl');

  const second = await open(dataDir);
  expect((await second.describe()).problem).toContain("record.json cannot be read");
  expect((await second.list()).find(({ deploymentId }) => deploymentId === "deployment_other")).toMatchObject({
    instances: [{ phase: "RUNNING" }],
  });
  expect(await absent(second)).toEqual({ kind: "succeeded" });
  expect((await second.describe()).problem).toBe("");
  await converge(second, { id: "deployment_other", desired: Deployment_Desired.ABSENT });
  expect(await second.list()).toEqual([]);
});

test("a chosen port that another program took meanwhile is given up for another", async () => {
  const dataDir = temporaryFolder();
  const first = await open(dataDir);
  const workloads = [{ ...sleeper, ports: [{ name: "http", container: 80, published: 0 }] }];
  await converge(first, { workloads });
  const before = (await first.list())[0]?.instances[0]?.ports[0]?.published;
  await first.close({ stopWorkloads: true });
  const thief = createServer();
  await new Promise<void>((resolve) => thief.listen(before, "127.0.0.1", resolve));
  atEnd(() => new Promise((resolve) => thief.close(() => resolve())));

  const second = await open(dataDir);
  await until(async () => (await second.list())[0]?.instances[0]?.phase === "RUNNING");
  const after = (await second.list())[0]?.instances[0]?.ports[0]?.published;
  expect(after).not.toBe(before);
  expect(await second.upstream(id, "web", "http")).toEqual({ host: "127.0.0.1", port: after });
  await absent(second);
});

test("a process gets the agent's path and little else, its ports, and its marks", async () => {
  const runtime = await open(undefined, {
    hostEnvironment: { PATH: process.env["PATH"], LC_ALL: "C", AWS_SECRET: "x" },
  });
  const workload = {
    name: "web",
    command: ["sh", "-c", "env; echo that is all; sleep 1000"],
    environment: { COLOUR: "red", "dotted.name": "yes", BOWLINE_RUN: "mine" },
    ports: [{ name: "grpc-web", container: 0, published: 0 }],
  };
  await converge(runtime, { workloads: [workload] });
  let text = "";
  const told = new AbortController();
  for await (const bytes of runtime.logs(id, "web", 0, { lines: 100, follow: true }, told.signal)) {
    text += Buffer.from(bytes).toString();
    if (text.endsWith("that is all\n")) told.abort();
  }
  const port = (await runtime.list())[0]?.instances[0]?.ports[0]?.published;
  expect(text).toContain(`PORT=${port}\n`);
  expect(text).toContain(`BOWLINE_PORT_GRPC_WEB=${port}\n`);
  expect(text).toContain(`BOWLINE_INSTANCE=${id}/web/0/1\n`);
  expect(text).toContain("COLOUR=red\n");
  expect(text).toContain("LC_ALL=C\n");
  expect(text).not.toContain("BOWLINE_RUN=mine");
  expect(text).not.toContain("AWS_SECRET");
  await absent(runtime);
});

test("another process cannot use the folder; its end frees it, however it ends", async () => {
  const dataDir = temporaryFolder();
  const script = `
    import { createLocalRuntime } from ${JSON.stringify(new URL("./runtime.ts", import.meta.url).href)};
    const log = { info() {}, warn() {}, error() {} };
    await createLocalRuntime({ dataDir: ${JSON.stringify(dataDir)}, log });
    console.log("open");
    setInterval(() => {}, 1 << 30);`;
  const other = startProcess({ command: ["node", "--input-type=module", "-e", script] });
  await other.untilLine("open");
  await expect(createLocalRuntime({ dataDir, log: quiet })).rejects.toMatchObject({
    reason: "DATA_DIR_IN_USE",
    message: expect.stringContaining(String(other.pid)),
  });
  other.kill("SIGKILL");
  await other.ended;
  expect(await (await open(dataDir)).list()).toEqual([]);
});

test("a forwarder of another version is replaced when the agent starts, and one of its own version is not", async () => {
  const dataDir = temporaryFolder();
  const answers = "require('http').createServer((_, r) => r.end('here')).listen(process.env.PORT, '127.0.0.1')";
  const spec: Spec = {
    workloads: [
      { name: "web", command: [process.execPath, "-e", answers], ports: [{ name: "http", container: 8080 }] },
    ],
    forwards: [{ name: "http", published: 0, backends: [{ workload: "web", port: "http" }] }],
  };
  const first = await open(dataDir);
  expect(await converge(first, spec)).toEqual({ kind: "succeeded" });
  const folder = join(dataDir, "forwarders", id);
  const status = () => JSON.parse(readFileSync(join(folder, "status.json"), "utf8")) as { pid: number; build: string };
  const { pid, build } = status();
  await first.close({ stopWorkloads: false });
  const second = await open(dataDir);
  expect(await converge(second, { ...spec, generation: 2 })).toEqual({ kind: "succeeded" });
  expect(status().pid).toBe(pid);
  await second.close({ stopWorkloads: false });

  process.kill(pid, "SIGKILL");
  await until(() => !isRunning(pid));
  const older = startProcess({ command: ["node", forwarderProgram, folder, "older"] });
  await until(() => status().build === "older", { withinMs: 30_000 });
  const third = await open(dataDir);
  expect(await older.ended).toEqual({ code: 0, signal: null });
  const served = async () => {
    const port = (await third.list())[0]?.instances[0]?.ports[0]?.published;
    return await (await fetch(`http://127.0.0.1:${port}/`)).text();
  };
  expect(await until(served, { withinMs: 30_000 })).toBe("here");
  await until(() => status().build === build);
  await absent(third);
}, 120_000);
