/**
 * Secrets and the password of a registry on their way from people to containers
 * of a real Docker Engine, and everywhere that they must not be.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createConnection } from "node:net";
import { dirname, join } from "node:path";
import { createHash } from "node:crypto";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { RegistryService } from "@bowline/contract/registries";
import {
  type ComposeSource,
  type Stack,
  type ComposeSourceSchema,
  Stack_State,
  StackService,
} from "@bowline/contract/stacks";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  atEnd,
  startProcess,
  temporaryFolder,
  testDatabase,
  testDocker,
  testRedis,
  testRegistry,
  until,
} from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { sql } from "kysely";
import { programs, startServer } from "../e2e/fixture.ts";
import { freshName } from "../e2e/operating.ts";

/** On two busy cores. */
const settledWithinMs = 120_000;
const busybox = "testing/busybox:1";

const docker = await testDocker();
await docker.importBusybox(busybox);

const canaries = {
  external: "canary-external-5f1c",
  given: "canary-given-a08b",
  variable: "canary-variable-77d2",
  bytes: "canary-bytes-e1f4",
  password: "canary-password-31ee",
  renewed: "canary-password-9c40",
};

/** Of several lines, as a key is, and bytes that are no text. */
const values = {
  external: Buffer.from(`-----BEGIN PRIVATE KEY-----\n${canaries.external}\n-----END PRIVATE KEY-----\n`),
  binary: Buffer.concat([Buffer.from([0, 255, 254, 10]), Buffer.from(canaries.bytes)]),
  given: Buffer.concat([Buffer.from(`${canaries.given}\nsecond line\n`), Buffer.from([0, 200, 10])]),
};

/** Any of them, as it could stand somewhere: as text, as base64 at any offset, as hexadecimal. */
const shown = new RegExp(
  Object.values(canaries)
    .flatMap((value) => [
      value,
      Buffer.from(value).toString("hex"),
      ...[0, 1, 2].map((offset) =>
        Buffer.from("x".repeat(offset) + value)
          .toString("base64")
          .slice(offset === 0 ? 0 : 4, -4)
          .replaceAll("+", "\\+"),
      ),
    ])
    .join("|"),
  "i",
);

async function startPlace() {
  const database = await testDatabase();
  const redis = await testRedis();
  const told = await readRedis(redis.url);
  const server = await startServer({ databaseUrl: database.url, flags: ["--redis-url", redis.url] });
  const cluster = await server.api.clusters.createCluster({
    cluster: { name: freshName("cluster"), runtime: "docker" },
  });
  const { token } = await server.api.tokens.createRegistrationToken({ clusterId: cluster.id });
  const dataDir = temporaryFolder();
  const agent = startProcess({
    command: [
      ...["node", programs.cli, "agent", "join", server.url, "--runtime", "docker", "--docker-host", docker.host],
      ...["--data-dir", dataDir, "--log-format", "json"],
    ],
    env: { BOWLINE_REGISTRATION_TOKEN: token },
  });
  const transport = createConnectTransport({
    baseUrl: server.url,
    httpVersion: "1.1",
    nodeOptions: { agent: false },
    interceptors: [
      (next) => (request) => {
        request.header.set("authorization", `Bearer ${server.adminToken}`);
        return next(request);
      },
    ],
  });
  const stacks = createClient(StackService, transport);
  const name = freshName("shop");
  let stackId = "";
  const settled = async (end: Stack_State) => {
    let last: Stack | undefined;
    return until(
      async () => {
        last = await stacks.getStack({ id: stackId });
        return last.state === end ? last : undefined;
      },
      { withinMs: settledWithinMs, what: `the stack to be in state ${end}` },
    ).catch((cause: unknown) => {
      throw new Error(`${String(cause)}\n${JSON.stringify(last, bigints)}\n${agent.output()}`, { cause });
    });
  };
  await until(async () => (await server.api.agents.listAgents({})).agents.some(({ epoch }) => epoch > 0n), {
    ...{ withinMs: settledWithinMs, what: "the agent's session" },
  });
  atEnd(async () => {
    // Its agent is still there: what is registered last ends first.
    if (stackId === "") return;
    await stacks.downStack({ id: stackId, removeVolumes: true });
    await settled(Stack_State.DELETED);
  });
  const apply = async (
    text: string,
    more: Exclude<MessageInitShape<typeof ComposeSourceSchema>, ComposeSource> = {},
  ) => {
    const applied = await stacks.applyStack({
      ...{ name, clusterId: cluster.id, limits: { maxRetries: 0 }, policy: { minHealthyTime: { seconds: 0n } } },
      source: { files: [{ name: "compose.yaml", content: Buffer.from(text) }], ...more },
    });
    stackId = applied.stack?.id ?? "";
    return applied;
  };
  return {
    ...{ ...server, database, agent, dataDir, stacks, name, apply, settled },
    /** All that Redis was told so far. */
    redis: told,
    registries: createClient(RegistryService, transport),
    /** The stack's containers, as the engine shows them, by service. */
    containers: async () => {
      const { targets } = await stacks.getStack({ id: name });
      const label = targets.map(({ deploymentId }) => `bowline.deployment=${deploymentId}`);
      const filters = encodeURIComponent(JSON.stringify({ label }));
      const listed = (await docker.ask("GET", `/containers/json?all=true&filters=${filters}`)) as { Id: string }[];
      return Promise.all(
        listed.map(async ({ Id }) => (await docker.ask("GET", `/containers/${Id}/json`)) as Inspected),
      );
    },
  };
}

/** Every command that a Redis gets from now on. */
async function readRedis(path: string): Promise<() => string> {
  let told = "";
  const socket = createConnection(path).setEncoding("utf8");
  socket.on("data", (text: string) => void (told += text));
  socket.on("error", () => {}); // it ends before we do
  socket.write("MONITOR\r\n");
  atEnd(async () => void socket.destroy());
  await until(() => told.startsWith("+OK"), { withinMs: settledWithinMs, what: "Redis to tell what it is told" });
  return () => told;
}

interface Inspected {
  Id: string;
  Name: string;
  Config: { Image: string; Labels: Record<string, string> };
  State: { StartedAt: string };
  Mounts: { Destination: string; Type: string; Source: string }[];
}

const logOf = async (id: string): Promise<string> =>
  String(await docker.ask("GET", `/containers/${id}/logs?stdout=true&stderr=true`));

const bigints = (_: string, value: unknown): unknown => (typeof value === "bigint" ? String(value) : value);

const sha256 = (text: string | Uint8Array): string => createHash("sha256").update(text).digest("hex");

/** All rows of all tables, as text. */
async function dump(db: Awaited<ReturnType<typeof testDatabase>>["db"]): Promise<string> {
  const { rows: tables } = await sql<{ name: string }>`
    SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'`.execute(db);
  const texts: string[] = [];
  for (const { name } of tables) {
    const { rows } = await sql<{ row: string }>`SELECT t::text AS row FROM ${sql.table(name)} AS t`.execute(db);
    texts.push(...rows.map(({ row }) => row));
  }
  return texts.join("\n");
}

test("an image of a registry with passwords is pulled with the organisation's, a new one counts from the next pull on and restarts nothing, and failures say which they are", async () => {
  const registry = await testRegistry({ users: { robot: canaries.password } });
  const place = await startPlace();
  const { api, registries, apply, settled, containers } = place;
  const [one, two] = [
    await registry.push(docker, busybox, "shop/web:1"),
    await registry.push(docker, busybox, "shop/web:2"),
  ];
  atEnd(async () => {
    for (const { reference } of [one, two])
      await docker.ask("DELETE", `/images/${reference}?noprune=1`).catch(() => undefined);
  });
  const service = (name: string, image: string): string =>
    `  ${name}:\n    image: ${image}\n    command: [sleep, "1000"]\n    stop_grace_period: 0s\n`;
  const text = (image: string): string => `services:\n${service("web", image)}`;
  const failure = async (image: string) => {
    await apply(text(image));
    return (await settled(Stack_State.FAILED)).message;
  };
  const { address } = registry;
  expect(await failure(one.reference)).toContain(
    `the registry ${address} denied it without a credential, since there is none for it (bowline registry create ${address})`,
  );
  const credential = { host: address, username: "robot" };
  const made = await registries.createRegistry({ registry: { ...credential, password: "wrong" } });
  expect(await failure(two.reference)).toContain(
    `the registry ${address} denied it to robot, whose credential was used`,
  );
  await registries.updateRegistry({ registry: { id: made.id, password: canaries.password } });
  expect(await failure(`${address}/shop/none:1`)).toContain(`the registry ${address} has no such image`);
  const nowhere = "127.0.0.1:9/shop/web:1";
  expect(await failure(nowhere)).toContain("the registry 127.0.0.1:9 is not reachable from this host");

  await apply(text(one.reference));
  await settled(Stack_State.RUNNING);
  const [before] = await containers();
  expect(before?.Config.Image).toBe(one.reference);

  registry.setUsers({ robot: canaries.renewed });
  await registries.updateRegistry({ registry: { id: address, password: canaries.renewed } });
  await apply(`${text(one.reference)}${service("next", two.reference)}`);
  await settled(Stack_State.RUNNING);
  const after = await containers();
  expect(after.map(({ Config }) => Config.Image).toSorted()).toEqual([one.reference, two.reference]);
  const kept = after.find(({ Id }) => Id === before?.Id);
  expect(kept?.State.StartedAt).toBe(before?.State.StartedAt);

  expect(await api.audit.listAuditEvents({ actionPrefix: "registry." })).toMatchObject({
    auditEvents: [{ action: "registry.update" }, { action: "registry.update" }, { action: "registry.create" }],
  });
  expect(await dump(place.database.db)).not.toMatch(shown);
  expect(place.process.output() + place.agent.output() + filesOf(place.dataDir) + place.redis()).not.toMatch(shown);
  expect(JSON.stringify(after)).not.toMatch(shown);
});

/** What is in the files of a folder. */
function filesOf(folder: string): string {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), "latin1"))
    .join("\n");
}

test("secrets of the API, of files and of variables are files in memory of the containers that name them, and nowhere else", async () => {
  const place = await startPlace();
  const { api, stacks, name, apply, settled, containers } = place;
  const [external, binary] = [freshName("key"), freshName("bytes")];
  await api.secrets.createSecret({ name: external, value: values.external.toString() });
  await api.secrets.createSecret({ name: binary, data: values.binary });
  const text = `services:
  web:
    image: ${busybox}
    read_only: true
    stop_grace_period: 0s
    command:
      - sh
      - -c
      - |
        sha256sum /run/secrets/${external} /run/secrets/${binary} /etc/given /run/secrets/variable
        ls -ln /run/secrets /etc/given | awk '/-r/{print $$1,$$3,$$4}'
        grep -c "^tmpfs /run/secrets/${external} " /proc/mounts
        cat /plain.conf
        sleep 1000
    configs: [{ source: plain, target: /plain.conf }]
    secrets:
      - ${external}
      - ${binary}
      - { source: given, target: /etc/given, uid: "1000", gid: "1001", mode: 0440 }
      - variable
configs:
  plain: { content: "no secret\\n" }
secrets:
  ${external}: { external: true }
  ${binary}: { external: true }
  given: { file: ./given.txt }
  variable: { environment: SHOP_VARIABLE }
`;
  const given = {
    referred: [{ name: "./given.txt", content: values.given }],
    environment: { SHOP_VARIABLE: canaries.variable },
  };
  const dry = await stacks.applyStack({
    ...{ name, clusterId: (await api.clusters.listClusters({})).clusters[0]?.id ?? "", dryRun: true },
    source: { files: [{ name: "compose.yaml", content: Buffer.from(text) }], ...given },
  });
  const applied = await apply(text, given);
  await settled(Stack_State.RUNNING);
  const [container] = await containers();
  if (container === undefined) throw new Error("no container is there");
  const log = await until(async () => {
    const read = await logOf(container.Id);
    return read.includes("no secret") ? read : undefined;
  });
  for (const value of [...Object.values(values), canaries.variable]) expect(log).toContain(sha256(value));
  expect(log).toContain("-r--r----- 1000 1001");
  expect(log).toContain("-r--r--r-- 0 0");
  expect(container.Name).toMatch(new RegExp(`^/bowline-${name}-web-0-`));
  expect(container.Config.Labels).toMatchObject({ "bowline.stack": name, "bowline.service": "web" });
  const mounted = container.Mounts.filter(({ Destination }) => Destination.includes("/run/secrets/"));
  expect(mounted.map(({ Type }) => Type)).toEqual(["bind", "bind", "bind"]);

  // A host that was restarted has lost them: they are made again before the next start.
  const folders = mounted.map(({ Source }) => Source);
  await stacks.stopStack({ id: name });
  await settled(Stack_State.STOPPED);
  for (const path of folders) rmSync(dirname(path), { recursive: true, force: true });
  await stacks.startStack({ id: name });
  await settled(Stack_State.RUNNING);
  expect((await containers())[0]?.Id).toBe(container.Id);
  expect(folders.map((path) => sha256(readFileSync(path))).toSorted()).toEqual(
    [values.external, values.binary, canaries.variable].map(sha256).toSorted(),
  );

  const told = JSON.stringify(
    [
      ...[dry, applied, container, await stacks.getStack({ id: name }), await api.audit.listAuditEvents({})],
      ...[await stacks.diffStack({ id: name }), await stacks.getStackRevision({ stackId: name, number: 1 })],
      await api.deployments.listDeployments({}),
    ],
    bigints,
  );
  expect(told).toContain(external);
  expect(told).not.toMatch(shown);
  const rows = await dump(place.database.db);
  expect(rows).toContain(external);
  expect(rows).not.toMatch(shown);
  expect(filesOf(place.dataDir)).not.toMatch(shown);
  expect(place.process.output() + place.agent.output() + place.redis()).not.toMatch(shown);
  expect(place.redis()).toContain("bowline:");

  await stacks.downStack({ id: name });
  await settled(Stack_State.DELETED);
  expect(folders.some((path) => existsSync(path))).toBe(false);
  for (const id of [external, binary]) await api.secrets.deleteSecret({ id });
});
