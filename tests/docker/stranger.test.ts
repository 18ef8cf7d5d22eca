/**
 * A Compose file from a stranger, through a real server and agent to a real engine: what it asks of the host is refused
 * at its place and leaves nothing on the engine, unless the cluster's policy allows it; then it runs. The host's owner
 * has the last word.
 */
import { mkdirSync, readlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { ConnectError } from "@connectrpc/connect";
import { beforeAll, expect, test } from "@jest/globals";
import { BadRequestSchema, ErrorInfoSchema } from "@bowline/contract/errors";
import { Stack_State as State, StackTarget_State as TargetState } from "@bowline/contract/stacks";
import { temporaryFolder, until } from "@bowline/testing";
import { refusal } from "../e2e/api.ts";
import { online } from "../e2e/operating.ts";
import { busybox, idle } from "./beside.ts";
import { onEngine } from "./left.ts";
import { dockerHosts, settledWithinMs } from "./stacks.fixture.ts";
import { byPolicy, forGood, service } from "./stranger-asks.ts";

// A host whose owner gives paths: only the cluster's policy is between a stranger and them.
const hosts = await dockerHosts(["a"], { agentFlags: ["--allow-host-paths"] });
const { docker, api, bowline, cluster, clusterId, agents, apply, runs, reaches, running, down } = hosts;
let before = new Set<string>();
beforeAll(async () => {
  before = await onEngine(docker);
});

/** `up` as any client of the API says it. `files`: beside the first. */
async function refusedBy(text: string, files: Record<string, string> = {}, more: object = {}) {
  const content = (one: string) => Buffer.from(one);
  const source = {
    files: [{ name: "compose.yaml", content: content(text) }],
    referred: Object.entries(files).map(([name, one]) => ({ name, content: content(one) })),
    ...more,
  };
  const error = await api.stacks.applyStack({ name: "stranger", clusterId, source }).catch((caught: unknown) => caught);
  if (!(error instanceof ConnectError)) throw new Error("it was not refused");
  const [info] = error.findDetails(ErrorInfoSchema);
  const fields = error.findDetails(BadRequestSchema).flatMap((one) => one.fieldViolations.map(({ field }) => field));
  return { reason: info?.reason, why: info?.metadata["reasons"], paths: fields.map((field) => field.split(" ")[1]) };
}

const allow = (...flags: string[]) => bowline("cluster", "update", cluster, ...flags);

test("whatever of the host a stranger's file asks for is refused with its path and a stable reason", async () => {
  expect((await allow("--allow-published-port", "8000-8999")).code).toBe(0);
  for (const [what, text, why, path, files, more] of byPolicy) {
    const { reason, why: told, paths } = await refusedBy(text, files, more);
    expect([what, reason, told, paths]).toEqual([what, "COMPOSE_REFUSED_BY_POLICY", why, path.split(" ")]);
  }
  for (const [what, text, why, path, files, more] of forGood) {
    const { reason, why: told, paths } = await refusedBy(text, files, more);
    expect([what, reason, told, paths]).toEqual([what, "COMPOSE_INVALID", why, [path]]);
  }
});

test("all of it in files that hide it in each other is told to whoever types `stack up`, and nothing of it is on the engine", async () => {
  const folder = temporaryFolder();
  const write = (name: string, text: string) => {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  };
  write("compose.yaml", `include: [parts/db.yaml]\n${service("extends: { file: parts/base.yaml, service: base }")}`);
  write("parts/base.yaml", `services: { base: { image: "${busybox}", pid: host, volumes: ["/:/host"] } }`);
  write(
    "parts/db.yaml",
    `services: { db: { image: "${busybox}", cap_add: [SYS_ADMIN], volumes: ["v:/v"] } }
volumes: { v: { driver_opts: { type: none, o: bind, device: /etc } } }`,
  );
  write("override.yaml", "services: { db: { network_mode: host } }");
  const typed = await bowline(
    ...["stack", "up", "--name", "stranger", "--to", cluster],
    ...["-f", join(folder, "compose.yaml"), "-f", join(folder, "override.yaml")],
  );
  expect([typed.code, typed.stdout, typed.stderr]).toEqual([
    1,
    "",
    expect.stringMatching(/^COMPOSE_REFUSED_BY_POLICY$/m),
  ]);
  const asked = ["services.web.pid", "services.web.volumes[0]", "services.db.cap_add[0]", "services.db.network_mode"];
  for (const path of [...asked, "volumes.v.driver_opts.device"]) expect(typed.stderr).toContain(`: ${path}: `);
  expect((await api.stacks.listStacks({ clusterId })).stacks).toEqual([]);
  expect((await api.commands.listCommands({})).commands).toEqual([]);
  expect(await onEngine(docker)).toEqual(before);
});

interface Inspected {
  Id: string;
  HostConfig: Record<string, unknown>;
  Config: { Labels: Record<string, string> };
  Mounts: object[];
}

/** The containers of a stack by service, as the engine inspects them. */
async function inspected(stack: string): Promise<Record<string, Inspected>> {
  const ids = await running(stack);
  const all = await Promise.all(ids.map((id) => docker.ask("GET", `/containers/${id}/json`) as Promise<Inspected>));
  return Object.fromEntries(all.map((one) => [one.Config.Labels["bowline.service"], one]));
}

async function said(container: Inspected | undefined, ...Cmd: string[]): Promise<string> {
  const { Id } = (await docker.ask("POST", `/containers/${container?.Id}/exec`, {
    ...{ Cmd, AttachStdout: true, AttachStderr: true, Tty: true },
  })) as { Id: string };
  return String(await docker.ask("POST", `/exec/${Id}/start`, { Tty: true })).trim();
}

const common = { image: busybox, command: idle, init: false };
const one = (keys: object): string => JSON.stringify({ services: { web: { ...common, ...keys } } });
const refused = { reason: "COMPOSE_REFUSED_BY_POLICY" };

test("what the policy allows by name runs and no more; a narrower policy stops what comes next, and nothing that runs", async () => {
  const given = temporaryFolder();
  writeFileSync(join(given, "word"), "of the host");
  const text = JSON.stringify({
    services: {
      reader: { ...common, volumes: [`${given}:/given:ro`] },
      able: { ...common, cap_add: ["NET_ADMIN"], devices: ["/dev/zero:/dev/given"] },
      near: { ...common, network_mode: "host", pid: "host" },
    },
  });
  const flags = ["--allow-host-path", given, "--allow-capability", "NET_ADMIN", "--allow-device", "/dev/zero"];
  expect((await allow(...flags, "--allow-host-network", "--allow-host-namespaces")).code).toBe(0);
  await apply("trusted", text);
  await runs("trusted");
  const { reader, able, near } = await inspected("trusted");
  expect(reader?.Mounts).toMatchObject([{ Type: "bind", Source: given, Destination: "/given", RW: false }]);
  expect(await said(reader, "cat", "/given/word")).toBe("of the host");
  expect(able?.HostConfig).toMatchObject({
    ...{ CapAdd: ["NET_ADMIN"], Devices: [{ PathOnHost: "/dev/zero" }], Privileged: false },
  });
  expect(await said(able, "ip", "link", "set", "lo", "down")).toBe("");
  expect(await said(reader, "ip", "link", "set", "lo", "down")).toContain("not permitted");
  expect(near?.HostConfig).toMatchObject({ NetworkMode: "host", PidMode: "host" });
  expect(await said(near, "readlink", "/proc/self/ns/net")).toBe(readlinkSync("/proc/self/ns/net"));
  const beyond = { cap_add: ["SYS_ADMIN", "NET_ADMIN"], volumes: ["/etc:/etc2", `${given}/../other:/other`] };
  const { paths } = await refusedBy(one(beyond));
  expect(paths).toEqual(["volumes[0]", "volumes[1]", "cap_add[0]"].map((path) => `services.web.${path}`));

  const kept = (await running("trusted")).toSorted();
  expect((await allow("--no-allow-host-network", "--allow-host-path", "")).code).toBe(0);
  for (const call of [api.stacks.restartStack({ id: "trusted" }), apply("trusted", text), apply("again", text)])
    expect(await refusal(call)).toMatchObject(refused);
  expect((await running("trusted")).toSorted()).toEqual(kept);
  await api.stacks.stopStack({ id: "trusted" });
  await reaches("trusted", State.STOPPED);
  expect(await refusal(api.stacks.startStack({ id: "trusted" }))).toMatchObject(refused);
  expect(await running("trusted")).toEqual([]);
  await down("trusted");
  expect(await onEngine(docker)).toEqual(before);
});

test("what the host's owner denies beats the policy: nothing new of it comes there, and what runs is not made anew", async () => {
  expect((await allow("--allow-capability", "NET_ADMIN")).code).toBe(0);
  await apply("able", one({ cap_add: ["NET_ADMIN"] }));
  await runs("able");
  const kept = await running("able");
  const [agent] = agents;
  await agent?.kill();
  const denying = agent?.again({ env: { BOWLINE_AGENT_DENY: "capabilities" } });
  if (denying === undefined) throw new Error("there is no agent");
  await online(api, denying);
  await api.stacks.restartStack({ id: "able" });
  expect(await reaches("able", State.FAILED)).toMatchObject({
    ...{ reason: "DENIED_BY_HOST", message: expect.stringContaining("capAdd NET_ADMIN") },
  });
  expect(await running("able")).toEqual(kept);
  await down("able");
  // Who is privileged has every capability.
  expect((await allow("--allow-privileged")).code).toBe(0);
  for (const [name, keys] of [
    ["more", { cap_add: ["NET_ADMIN"] }] as const,
    ["whole", { privileged: true }] as const,
  ]) {
    await apply(name, one(keys), {}, { maxRetries: 0 });
    const waits = await reaches(name, State.RUNNING, ({ conditions }) => conditions.includes("NO_AGENT"));
    expect(waits.targets).toEqual([]);
  }
  expect(await onEngine(docker)).toEqual(before);

  await denying.kill();
  await online(api, denying.again());
  await runs("more");
  const ended: readonly (TargetState | undefined)[] = [TargetState.DONE, TargetState.TARGET_FAILED];
  const whole = await until(
    async () => {
      const stack = await api.stacks.getStack({ id: "whole" });
      return ended.includes(stack.targets[0]?.state) ? stack : undefined;
    },
    { withinMs: settledWithinMs, what: "it is tried once its host's owner lets it" },
  );
  if (whole.state === State.RUNNING)
    expect((await inspected("whole"))["web"]).toMatchObject({ HostConfig: { Privileged: true } });
  // Not every machine has all capabilities to give: there the engine says so, and nobody before it.
  else expect(whole.message).toContain("unable to apply caps: operation not permitted");
  for (const name of ["more", "whole"]) await down(name);
  expect(await onEngine(docker)).toEqual(before);
});
