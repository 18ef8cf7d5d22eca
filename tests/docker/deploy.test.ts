/**
 * deploy/ as people use it: both images by their Dockerfiles, compose.yaml by
 * Compose, and then the main job in what that started. One test, since each
 * step stands on the one before; the base images are made here (base-images.ts).
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { atEnd, freePort, runProcess, temporaryFolder, testDocker, until } from "@bowline/testing";
import { programs } from "../e2e/fixture.ts";
import { keepAsking } from "./asking.ts";
import { makeBaseImages } from "./base-images.ts";
import { buildImage, composeProgram, dockerProgram } from "./compose-program.ts";

const project = "bowline-deploy-test";
const workload = "bowline-deploy-test/web:1";
/** Bowline's user in its images. */
const user = "10001";

/** On two busy cores; each takes seconds on idle ones. */
const settledWithinMs = 120_000;

const docker = await testDocker();

interface Listed {
  Id: string;
  Names: string[];
  Labels: Record<string, string>;
  Status: string;
  State: string;
}

async function containers(label: string): Promise<Listed[]> {
  const filters = encodeURIComponent(JSON.stringify({ label: [label] }));
  return (await docker.ask("GET", `/containers/json?all=1&filters=${filters}`)) as Listed[];
}

const ours = (): Promise<Listed[]> => containers(`com.docker.compose.project=${project}`);
const workloads = (): Promise<Listed[]> => containers("bowline.agent");
const forwarders = (): Promise<Listed[]> => containers("bowline.slot=forwarder");
/** Instances of its service, of both colours. */
const webs = async (): Promise<Listed[]> =>
  (await workloads()).filter(({ Labels }) => /^web\b/.test(Labels["bowline.workload"] ?? ""));

/** Of workloads. */
async function networks(): Promise<string[]> {
  const filters = encodeURIComponent(JSON.stringify({ label: ["bowline.agent"] }));
  return ((await docker.ask("GET", `/networks?filters=${filters}`)) as { Id: string }[]).map(({ Id }) => Id);
}

/** Answers its version; ends at once. */
function stackFile(version: string, port: number): string {
  const file = join(temporaryFolder(), "compose.yaml");
  const command = `mkdir -p /tmp/www; echo ${version} > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www`;
  writeFileSync(
    file,
    `services:
  web:
    image: ${workload}
    command: [sh, -c, "${command}"]
    init: false
    stop_signal: SIGKILL
    ports: ["127.0.0.1:${port}:8080"]
    healthcheck: { test: [CMD, wget, -q, -O, "-", "http://127.0.0.1:8080/"], interval: 1s, timeout: 20s, retries: 5 }
`,
  );
  return file;
}

const rolling = (minHealthyTime: string): string[] => [
  ...["stack", "up", "--name", "shop", "--to", "docker", "--strategy", "blue-green", "--keep-old", "0s"],
  ...["--gate", "up=http:web:8080/", "--min-healthy-time", minHealthyTime, "-f"],
];

interface Agent {
  id: string;
  connectivity: string;
  capabilities: string[];
}

interface Inspected {
  RestartCount: number;
  State: { Pid: number; ExitCode: number; Health?: { Status: string } };
}

const inspect = async (name: string): Promise<Inspected> =>
  (await docker.ask("GET", `/containers/${name}/json`)) as Inspected;

const nameOf = (service: string): string => `${project}_${service}_1`;

async function healthy(...services: string[]): Promise<void> {
  for (const service of services) {
    await until(async () => (await inspect(nameOf(service))).State.Health?.Status === "healthy", {
      withinMs: settledWithinMs,
      what: `${service} is healthy`,
    });
  }
}

/** Here, of a process that the engine knows by a number of its own namespace; it is process 1 of its container. */
function pidHere(pidOfEngine: number): number {
  for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      const [, line = ""] = /^NSpid:\s+(.+)$/m.exec(readFileSync(`/proc/${name}/status`, "utf8")) ?? [];
      const pids = line.split(/\s+/).map(Number);
      if (pids.length > 1 && pids.at(-1) === 1 && pids.at(-2) === pidOfEngine) return Number(name);
    } catch {
      continue; // it has ended meanwhile
    }
  }
  throw new Error(`no process here is the engine's ${pidOfEngine}`);
}

test("`docker compose up` makes a server, and an agent that enrols by itself and rolls out stacks; killed, or made anew in the middle of a blue/green rollout, it adopts them and a client sees no failed request; `down` of a stack leaves Bowline alone", async () => {
  await makeBaseImages(docker);
  await docker.importBusybox(workload);
  await Promise.all([
    buildImage(docker, "server", "bowline/server:0.1.0"),
    buildImage(docker, "agent-docker", "bowline/agent-docker:0.1.0"),
  ]);

  const port = String(await freePort());
  const url = `http://127.0.0.1:${port}`;
  const compose = await composeProgram(docker, project, {
    ...{ BOWLINE_PORT: port, BOWLINE_PUBLIC_URL: url, DOCKER_SOCKET: docker.host.replace("unix://", "") },
  });
  const type = await dockerProgram(docker);
  atEnd(async () => {
    await compose("down", "--volumes", "--timeout", "10"); // the agent first, who would bring back what is taken away
    for (const { Id } of await workloads()) await docker.ask("DELETE", `/containers/${Id}?force=1&v=1`);
    for (const Id of await networks()) await docker.ask("DELETE", `/networks/${Id}`);
  });

  // A fresh host.
  const up = await compose("up", "--detach", "--no-build");
  expect([up.code, up.code === 0 ? "" : up.output]).toEqual([0, ""]);
  await healthy("postgres", "valkey", "server", "agent");

  // Nobody is root, process 1 is Node itself, and no secret is where others look.
  for (const service of ["server", "agent"]) {
    const status = await type("exec", nameOf(service), "cat", "/proc/1/status");
    expect([service, /^Uid:\s+(\d+)/m.exec(status)?.[1], /^Name:\s+(.+)$/m.exec(status)?.[1]]).toEqual([
      ...[service, user, expect.stringMatching(/^(node|MainThread)$/)],
    ]);
  }
  const read = async (service: string, path: string): Promise<string> =>
    (await type("exec", "--user", user, nameOf(service), "cat", path)).trim();
  const adminToken = await read("server", "/var/lib/bowline-server/admin-token");
  const secrets = [
    adminToken,
    await read("server", "/secrets/server/postgres-password"),
    await read("server", "/secrets/server/valkey-password"),
    await read("agent", "/var/lib/bowline/registration-token"),
  ];
  expect(secrets.map((secret) => secret.length > 30)).toEqual([true, true, true, true]);
  for (const { Id, Names } of await ours()) {
    const shown = JSON.stringify(await docker.ask("GET", `/containers/${Id}/json`)) + (await type("logs", Id));
    expect([Names, secrets.some((secret) => shown.includes(secret))]).toEqual([Names, false]);
  }

  // The main job.
  const bowline = async (...args: string[]): Promise<string> => {
    const env = { BOWLINE_URL: url, BOWLINE_TOKEN: adminToken, npm_lifecycle_event: "" };
    const { code, stdout, stderr } = await runProcess({ command: ["node", programs.cli, ...args], env });
    expect([args, code, code === 0 ? "" : stderr]).toEqual([args, 0, ""]);
    return stdout;
  };
  const agents = async () => (JSON.parse(await bowline("agent", "list", "-o", "json")) as { agents: Agent[] }).agents;
  const [agent] = await agents();
  expect(agent?.capabilities).toContain("forwards");
  const published = await freePort();
  await bowline(...rolling("1s"), stackFile("v1", published));
  const [web, ...doubles] = await webs();
  expect([web?.State, doubles]).toEqual(["running", []]);
  const [forwarder, ...others] = await forwarders();
  expect([forwarder?.State, others]).toEqual(["running", []]);
  const client = keepAsking(published);
  await until(() => client.seen.includes("v1"), { withinMs: settledWithinMs, what: "the first version answers" });

  // Killed: the engine starts it again, and it adopts.
  process.kill(pidHere((await inspect(nameOf("agent"))).State.Pid), "SIGKILL");
  await until(async () => (await inspect(nameOf("agent"))).RestartCount === 1, {
    withinMs: settledWithinMs,
    what: "the engine starts the agent again",
  });
  await healthy("agent");
  expect((await webs()).map(({ Id, State }) => [Id, State])).toEqual([[web?.Id, "running"]]);

  // Removed while both colours run, and made anew, as an upgrade does it: the identity is in the volume.
  const second = bowline(...rolling("10s"), stackFile("v2", published)); // both stay for as long
  await until(async () => (await webs()).length > 1, { withinMs: settledWithinMs, what: "both colours run" });
  await docker.ask("DELETE", `/containers/${nameOf("agent")}?force=1`);
  const again = await compose("up", "--detach", "--no-build", "--no-deps", "agent");
  expect([again.code, again.code === 0 ? "" : again.output]).toEqual([0, ""]);
  await second;
  await until(() => client.seen.includes("v2"), { withinMs: settledWithinMs, what: "the second version answers" });
  const { seen, failures } = await client.end();
  expect([seen, failures]).toEqual([["v1", "v2"], []]);
  expect((await agents()).map(({ id, connectivity }) => [id, connectivity])).toEqual([[agent?.id, "ONLINE"]]);
  expect((await forwarders()).map(({ Id, State }) => [Id, State])).toEqual([[forwarder?.Id, "running"]]);
  expect(await bowline("stack", "ps", "shop")).toMatch(/web +running/);

  // Without its forwarder a stack gets another one, and one only.
  await docker.ask("DELETE", `/containers/${forwarder?.Id}?force=1`);
  const back = keepAsking(published);
  await until(() => back.seen.includes("v2"), { withinMs: settledWithinMs, what: "the published port leads on" });
  expect(await forwarders()).toHaveLength(1);
  await back.end();

  // Down: the stack goes, Bowline stays.
  const before = (await ours()).map(({ Id }) => Id);
  await bowline("stack", "down", "shop", "--volumes", "--wait", "--yes");
  expect([await workloads(), await networks()]).toEqual([[], []]);
  expect((await ours()).map(({ Id }) => Id)).toEqual(before);
  await healthy("postgres", "valkey", "server", "agent");

  // Told to stop, both end in order.
  await compose("stop", "agent");
  await compose("stop", "server");
  for (const service of ["agent", "server"])
    expect([service, (await inspect(nameOf(service))).State.ExitCode]).toEqual([service, 0]);
}, 480_000);
