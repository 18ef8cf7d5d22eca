/** Secrets of stacks over a real database: whose they are, when they change, and what is left of them. */
import { toJson } from "@bufbuild/protobuf";
import { beforeAll, expect, test } from "@jest/globals";
import type { Database } from "@bowline/db";
import { PlannedChangeSchema, Stack_State } from "@bowline/contract/stacks";
import { testDatabase } from "@bowline/testing";
import { type Kysely, sql } from "kysely";
import { reasonOf } from "../platform/in-process.ts";
import { type StackAgent, startStacks, type Stacking } from "./stacks.fixture.ts";

let db: Kysely<Database>;
let slice: Stacking;
let named = 0;

beforeAll(async () => {
  ({ db } = await testDatabase());
  slice = await startStacks(db);
});

async function place() {
  named += 1;
  const cluster = await slice.cluster(`keep-${named}`);
  return { cluster, stack: `shop-${named}`, agent: await slice.agent(cluster, "a") };
}

const service = (...secrets: string[]) =>
  `services:\n  web:\n    image: web:1\n    secrets: [${secrets.join(", ")}]\nsecrets:\n`;
const given = `${service("db")}  db: { file: ./db.txt }\n`;
const external = (name: string) => `${service(name)}  ${name}: { external: true }\n`;
const referred = (content: string) => [{ name: "./db.txt", content: Buffer.from(content) }];

async function settled(agent: StackAgent): Promise<number> {
  const done = await agent.workOff();
  await slice.settle();
  return done.length;
}

/** All rows of all tables, as text. */
async function dump(): Promise<string> {
  const { rows: tables } = await sql<{ name: string }>`
    SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'`.execute(db);
  const texts: string[] = [];
  for (const { name } of tables) {
    const { rows } = await sql<{ row: string }>`SELECT t::text AS row FROM ${sql.table(name)} AS t`.execute(db);
    texts.push(...rows.map(({ row }) => row));
  }
  return texts.join("\n");
}

test("what comes with a stack is its own: no secret of the API is changed, read or shown by it, whatever they are called", async () => {
  const { cluster, stack, agent } = await place();
  const made = await slice.secrets.createSecret({ name: `${stack}-db`, value: "somebody else's" });
  await slice.apply(stack, given, { clusterId: cluster, referred: referred("the stack's") });
  expect(await slice.secrets.getSecret({ id: made.id })).toEqual(made);
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing was begun");
  const versions = Object.values((await agent.spec(command)).secretVersions);
  expect(versions).toHaveLength(1);
  expect(versions[0]).not.toContain(made.id);
  const { secrets, totalSize } = await slice.secrets.listSecrets({ returnTotalSize: true });
  expect([secrets.filter(({ name }) => name.includes(stack)).map(({ name }) => name), secrets.length]).toEqual([
    [`${stack}-db`],
    totalSize,
  ]);
  const id = versions[0]?.split("/")[0] ?? "";
  expect(await reasonOf(slice.secrets.getSecret({ id }))).toBe("NOT_FOUND");
  expect(await reasonOf(slice.secrets.setSecretValue({ id, value: "x" }))).toBe("NOT_FOUND");
});

test("a new value of a secret makes the stack SECRETS_OUTDATED and reaches it with the next restart, not by itself", async () => {
  const { cluster, stack, agent } = await place();
  await slice.secrets.createSecret({ name: `key-${stack}`, value: "one" });
  await slice.apply(stack, external(`key-${stack}`), { clusterId: cluster });
  expect(await settled(agent)).toBe(1);
  const shown = async () => (await slice.stacks.getStack({ id: stack })).conditions;
  expect(await shown()).toEqual([]);
  await slice.secrets.setSecretValue({ id: `key-${stack}`, value: "two" });
  expect(await shown()).toEqual(["SECRETS_OUTDATED"]);
  expect(await settled(agent)).toBe(0);
  await slice.stacks.restartStack({ id: stack });
  expect(await shown()).toEqual([]);
  const [command] = await agent.claim();
  if (command === undefined) throw new Error("nothing was begun");
  expect(Object.values((await agent.spec(command)).secretVersions)).toEqual([expect.stringMatching(/\/2$/)]);
  await agent.succeed(command);
});

test("a host that joins brings nobody another value of a secret, and gets the one that all have; nor does a stop", async () => {
  const { cluster, stack, agent } = await place();
  const key = `key-${stack}`;
  await slice.secrets.createSecret({ name: key, value: "one" });
  const text = external(key).replace("web:1\n", "web:1\n    deploy: { mode: global }\n");
  await slice.apply(stack, text, { clusterId: cluster });
  expect(await settled(agent)).toBe(1);
  await slice.secrets.setSecretValue({ id: key, value: "two" });
  const other = await slice.agent(cluster, "b");
  await slice.placeStacks();
  expect(await agent.claim()).toEqual([]);
  const [joined] = await other.claim();
  if (joined === undefined) throw new Error("nothing was begun");
  expect(Object.values((await other.spec(joined)).secretVersions)).toEqual([expect.stringMatching(/\/1$/)]);
  await other.succeed(joined);
  await slice.settle();
  expect((await slice.stacks.getStack({ id: stack })).conditions).toEqual(["SECRETS_OUTDATED"]);
  await slice.stacks.stopStack({ id: stack });
  const [stop] = await agent.claim();
  if (stop === undefined) throw new Error("nothing is stopped");
  expect(Object.values((await agent.spec(stop)).secretVersions)).toEqual([expect.stringMatching(/\/1$/)]);
});

test("a dry run, and the plan of an apply, say that a service is replaced where only a secret's value or a config's content is another one, and show no value", async () => {
  const { cluster, stack, agent } = await place();
  const key = `key-${stack}`;
  await slice.secrets.createSecret({ name: key, value: "canary-one" });
  const text = (content: string): string => `services:
  web: { image: web:1, secrets: [db] }
  key: { image: key:1, secrets: [${key}] }
  site: { image: site:1, configs: [page] }
  rest: { image: rest:1 }
secrets:
  db: { file: ./db.txt }
  ${key}: { external: true }
configs:
  page: { content: ${content} }
`;
  const apply = async (db: string, more: object = {}, content = "one") => {
    const { plan, changes } = await slice.apply(stack, text(content), {
      clusterId: cluster,
      referred: referred(db),
      ...more,
    });
    const said = JSON.stringify({ plan, changes });
    for (const canary of ["canary-one", "canary-two"])
      for (const spelled of [canary, Buffer.from(canary).toString("base64")]) expect(said).not.toContain(spelled);
    const actions = plan.map((change) => [change.service, toJson(PlannedChangeSchema, change).action]);
    return {
      actions: Object.fromEntries(actions) as Record<string, string>,
      changes: changes.map(({ path, before, after }) => [path, before, after]),
    };
  };
  const kept = { web: "KEEP", key: "KEEP", site: "KEEP", rest: "KEEP" };
  const created = { web: "CREATE", key: "CREATE", site: "CREATE", rest: "CREATE" };
  const dry = { dryRun: true };
  expect((await apply("canary-one", dry)).actions).toEqual(created);
  await apply("canary-one");
  await settled(agent);
  expect(await apply("canary-one", dry)).toEqual({ actions: kept, changes: [] });
  expect(await apply("canary-two", dry)).toEqual({
    actions: { ...kept, web: "REPLACE" },
    changes: [["secrets/db/value", '"value number 1"', '"another value"']],
  });
  expect((await apply("canary-one", dry, "two")).actions).toEqual({ ...kept, site: "REPLACE" });
  await slice.secrets.setSecretValue({ id: key, value: "canary-two" });
  expect(await apply("canary-one", dry)).toEqual({
    actions: { ...kept, key: "REPLACE" },
    changes: [[`secrets/${key}/value`, '"value number 1"', '"value number 2"']],
  });
  expect((await apply("canary-two")).actions).toEqual({ ...kept, web: "REPLACE", key: "REPLACE" });
  await settled(agent);
  expect(await apply("canary-two", dry)).toEqual({ actions: kept, changes: [] });
  await slice.secrets.deleteSecret({ id: key, force: true });
  expect(await reasonOf(apply("canary-two", dry))).toBe("SECRET_UNKNOWN");
});

test("a secret that a stack has stays with SECRET_IN_USE, which names the stack, unless it is forced", async () => {
  const { cluster, stack, agent } = await place();
  const id = `kept-${stack}`;
  expect(await reasonOf(slice.apply(stack, external(id), { clusterId: cluster }))).toBe("SECRET_UNKNOWN");
  await slice.secrets.createSecret({ name: id, value: "one" });
  await slice.apply(stack, external(id), { clusterId: cluster });
  await settled(agent);
  expect(await reasonOf(slice.secrets.deleteSecret({ id }))).toBe("SECRET_IN_USE");
  await expect(slice.secrets.deleteSecret({ id })).rejects.toThrow(`The secret ${id} is in use by stack ${stack}.`);
  await slice.secrets.deleteSecret({ id, force: true });
  expect(await reasonOf(slice.secrets.getSecret({ id }))).toBe("NOT_FOUND");
  expect((await slice.stacks.getStack({ id: stack })).conditions).toEqual(["SECRETS_OUTDATED"]);
  expect(await reasonOf(slice.stacks.restartStack({ id: stack }))).toBe("SECRET_UNKNOWN");
});

test("the values that came with a stack are gone from the database when it is, also where the host was away", async () => {
  const { cluster, stack, agent } = await place();
  const rows = async () => {
    const all = await db
      .selectFrom("secrets as s")
      .innerJoin("secret_versions as v", "v.secret_id", "s.id")
      .selectAll()
      .execute();
    return all.filter(({ name }) => name.endsWith("/db")).length;
  };
  const before = await rows();
  await slice.apply(stack, given, { clusterId: cluster, referred: referred("one") });
  await settled(agent);
  await slice.apply(stack, given, { referred: referred("two") });
  await settled(agent);
  expect(await rows()).toBe(before + 2);
  await agent.online(false);
  expect((await slice.stacks.downStack({ id: stack })).state).toBe(Stack_State.DELETING);
  expect(await rows()).toBe(before + 2);
  await agent.online(true);
  await settled(agent);
  expect(await rows()).toBe(before);
  const empty = await slice.cluster(`empty-${named}`);
  await slice.apply(stack, given, { clusterId: empty, referred: referred("three") });
  expect(await rows()).toBe(before + 1);
  expect((await slice.stacks.downStack({ id: stack })).state).toBe(Stack_State.DELETED);
  expect(await rows()).toBe(before);
});

test("a key with another secret, variable or file is IDEMPOTENCY_CONFLICT, and none of it is in the database, not even hashed without a key", async () => {
  const { cluster, stack } = await place();
  const text = `${given}  token: { environment: SHOP_TOKEN }\n`.replace("[db]", "[db, token]");
  const request = {
    ...{ clusterId: cluster, requestId: `key ${stack}` },
    ...{ referred: referred("canary-of-a-file"), environment: { SHOP_TOKEN: "canary-of-a-variable" } },
  };
  const applied = await slice.apply(stack, text, request);
  expect((await slice.apply(stack, text, request)).stack?.rollout?.id).toBe(applied.stack?.rollout?.id);
  for (const other of [
    { referred: referred("another") },
    { environment: { SHOP_TOKEN: "another" } },
    { environment: { ...request.environment, MORE: "" } },
  ])
    expect(await reasonOf(slice.apply(stack, text, { ...request, ...other }))).toBe("IDEMPOTENCY_CONFLICT");
  expect(await reasonOf(slice.apply(stack, `${text}# more\n`, request))).toBe("IDEMPOTENCY_CONFLICT");
  const rows = await dump();
  expect(rows).toContain(stack);
  for (const canary of ["canary-of-a-file", "canary-of-a-variable"])
    for (const spelled of [canary, Buffer.from(canary).toString("hex"), Buffer.from(canary).toString("base64")])
      expect(rows).not.toContain(spelled);
});
