/** What a restore carries over from the database that it replaces, between two real databases. */
import { expect, test } from "@jest/globals";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { migrate } from "@bowline/db";
import { createEvents } from "../platform/events.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { carryKeys } from "./carried-keys.ts";
import { revokeAgain } from "./revocations.ts";
import { readSince } from "./since.ts";

const quiet = { error: () => {} };
/** Where the history of the backup stood. */
const taken = { incarnation: 3, position: 100 };

interface AgentIn {
  key: string;
  state?: string;
  engine?: string;
  certificate?: string;
  /** Keys that it had before. */
  before?: string[];
}

async function databaseWith(
  agents: Record<string, AgentIn>,
  history: { incarnation: number; position: number } = taken,
): Promise<Db> {
  const { db } = await testDatabase();
  const { incarnation, position } = history;
  await db.insertInto("installation").values({ id: "inst_1", incarnation }).execute();
  await sql`SELECT setval('event_position', ${position}::bigint)`.execute(db);
  await db.insertInto("clusters").values({ id: "cluster_1", name: "one", runtime: "local" }).execute();
  for (const [id, { key, state, engine, certificate, before }] of Object.entries(agents)) {
    await db
      .insertInto("agents")
      .values({
        ...{ id, cluster_id: "cluster_1", name: id, runtime: "local", runtime_identity: engine ?? "engine" },
        ...{ signing_key: `{"x":"${key}"}`, signing_thumbprint: key, sealing_key: `{"sealing":"${key}"}` },
        ...{ state: state ?? "ENROLLED", client_certificate: certificate ?? "" },
      })
      .execute();
    await db
      .insertInto("sessions")
      .values({ agent_id: id, id: `s_${id}`, epoch: 1, replica_id: "r", state: "ENDED", process_id: "p" })
      .execute();
    for (const thumbprint of before ?? [])
      await db
        .insertInto("replaced_keys")
        .values({ agent_id: id, thumbprint, signing_key: `{"x":"${thumbprint}"}`, because: "REKEY" })
        .execute();
  }
  return db;
}

/** As a restore does it over `replaced`. */
async function carryOver(replaced: Db, backup: Db) {
  const since = await replaced.transaction().execute((tx) => readSince(tx, "inst_1"));
  if (since === undefined) throw new Error("the replaced database is ours");
  return transact(backup, async (work) => {
    const events = createEvents(backup, quiet);
    const revoked = await revokeAgain(work, events, since, taken);
    return { revoked, keys: await carryKeys(work, events, since, taken) };
  });
}

const states = async (db: Db) =>
  Object.fromEntries(
    (await db.selectFrom("agents").select(["id", "state"]).execute()).map(({ id, state }) => [id, state]),
  );

const keysOf = async (db: Db, id: string) => {
  const agent = await db.selectFrom("agents").selectAll().where("id", "=", id).executeTakeFirstOrThrow();
  const before = await db.selectFrom("replaced_keys").select("thumbprint").where("agent_id", "=", id).execute();
  return {
    thumbprint: agent.signing_thumbprint,
    signing: agent.signing_key,
    sealing: agent.sealing_key,
    before: before.map(({ thumbprint }) => thumbprint).toSorted(),
  };
};

const audited = async (db: Db) =>
  (await db.selectFrom("audit_events").select(["action", "resource_id as id"]).orderBy("id").execute()).map(
    ({ action, id }) => `${action} ${id}`,
  );

test("who was revoked, retired or deleted since is revoked, each with an audit event; who stayed is not", async () => {
  const replaced = await databaseWith({
    stayed: { key: "a" },
    revoked: { key: "b", state: "REVOKED" },
    retired: { key: "c", state: "RETIRED" },
    enrolled: { key: "z" },
  });
  const backup = await databaseWith({
    stayed: { key: "a" },
    revoked: { key: "b" },
    retired: { key: "c" },
    deleted: { key: "d" },
  });
  expect(await carryOver(replaced, backup)).toEqual({ revoked: 3, keys: 0 });
  expect(await states(backup)).toEqual({
    stayed: "ENROLLED",
    revoked: "REVOKED",
    retired: "REVOKED",
    deleted: "REVOKED",
  });
  expect((await audited(backup)).toSorted()).toEqual([
    "agent.revoke deleted",
    "agent.revoke retired",
    "agent.revoke revoked",
  ]);
});

test("in a database that was itself restored, or is behind the backup, only the audit trail makes a missing agent a deleted one", async () => {
  const other = [
    { incarnation: 7, position: 900 },
    { incarnation: 3, position: 99 },
  ];
  for (const history of other) {
    const replaced = await databaseWith({}, history);
    await replaced
      .insertInto("audit_events")
      .values({
        ...{ id: "audit_1", principal_id: "sa_1", principal: "ann", before: null, after: null },
        ...{ action: "agent.delete", resource_kind: "agent", resource_id: "deleted" },
      })
      .execute();
    const backup = await databaseWith({ deleted: { key: "a" }, unknown: { key: "b" } });
    expect(await carryOver(replaced, backup)).toEqual({ revoked: 1, keys: 0 });
    expect(await states(backup)).toEqual({ deleted: "REVOKED", unknown: "ENROLLED" });
  }
});

test("a service account that was revoked since is revoked again, with an audit event of its organisation", async () => {
  const account = { id: "sa_1", organisation_id: "org_1", name: "ci", role: "viewer", created_by: "system" };
  const revokedAt = new Date("2026-01-02T03:04:05Z");
  const [replaced, backup] = [await databaseWith({}), await databaseWith({})];
  for (const db of [replaced, backup]) {
    await db.insertInto("organisations").values({ id: "org_1", name: "one" }).execute();
    await db
      .insertInto("service_accounts")
      .values({ ...account, secret_hash: Buffer.alloc(32) })
      .execute();
  }
  await replaced.updateTable("service_accounts").set({ revoked_at: revokedAt }).execute();
  expect(await carryOver(replaced, backup)).toEqual({ revoked: 1, keys: 0 });
  const { revoked_at: at } = await backup.selectFrom("service_accounts").selectAll().executeTakeFirstOrThrow();
  expect(at).toEqual(revokedAt);
  const [event] = await backup.selectFrom("audit_events").selectAll().execute();
  expect(event).toMatchObject({ action: "service-account.revoke", resource_id: "sa_1", organisation_id: "org_1" });
});

test("newer keys come with host, engine and certificate, and the older one is refused as replaced", async () => {
  const replaced = await databaseWith({
    press: { key: "new", engine: "engine-new", certificate: "sha256:new", before: ["older", "old"] },
    same: { key: "same", certificate: "sha256:renewed" },
  });
  await replaced.updateTable("agents").set({ hostname: "press-new" }).where("id", "=", "press").execute();
  await replaced.updateTable("sessions").set({ assertion_counter: 1_800_000_000_000 }).execute();
  const backup = await databaseWith({
    press: { key: "old", state: "CONFLICT", certificate: "sha256:old", before: ["older"] },
    same: { key: "same", certificate: "sha256:old" },
  });
  expect(await carryOver(replaced, backup)).toEqual({ revoked: 0, keys: 1 });
  expect(await keysOf(backup, "press")).toEqual({
    ...{ thumbprint: "new", signing: { x: "new" }, sealing: { sealing: "new" } },
    before: ["old", "older"],
  });
  const press = backup.selectFrom("agents").selectAll().where("id", "=", "press");
  expect(await press.executeTakeFirstOrThrow()).toMatchObject({
    ...{ state: "ENROLLED", hostname: "press-new", runtime_identity: "engine-new", client_certificate: "sha256:new" },
  });
  const session = backup.selectFrom("sessions").selectAll().where("agent_id", "=", "press");
  expect(await session.executeTakeFirstOrThrow()).toMatchObject({
    ...{ assertion_counter: 1_800_000_000_000, process_id: "" },
  });
  const same = backup.selectFrom("agents").select("client_certificate").where("id", "=", "same");
  expect(await same.executeTakeFirstOrThrow()).toEqual({ client_certificate: "sha256:renewed" });
  expect(await audited(backup)).toEqual(["agent.rekey press"]);
});

test("a key that the backup knows as replaced does not come back from a database that is older than it", async () => {
  const replaced = await databaseWith({ press: { key: "old" } }, { incarnation: 7, position: 900 });
  const backup = await databaseWith({ press: { key: "new", before: ["old"] } });
  expect(await carryOver(replaced, backup)).toEqual({ revoked: 0, keys: 0 });
  expect(await keysOf(backup, "press")).toMatchObject({ thumbprint: "new", before: ["old"] });
});

test("keys that went from one agent to another, or belonged to one that ended, find their owners", async () => {
  const replaced = await databaseWith({
    one: { key: "b", before: ["a"] },
    two: { key: "c", before: ["b"] },
    ended: { key: "c", state: "REVOKED" },
  });
  const backup = await databaseWith({ one: { key: "a" }, two: { key: "b" }, ended: { key: "c" } });
  expect(await carryOver(replaced, backup)).toEqual({ revoked: 1, keys: 2 });
  expect(await keysOf(backup, "one")).toMatchObject({ thumbprint: "b", before: ["a"] });
  expect(await keysOf(backup, "two")).toMatchObject({ thumbprint: "c", before: ["b"] });
});

test("a database of another installation says nothing, one of the first schema what it has", async () => {
  const { db } = await testDatabase({ migrated: false });
  expect(await db.transaction().execute((tx) => readSince(tx, "inst_1"))).toBeUndefined();
  await migrate(db, "0001-spine");
  for (const statement of [
    `INSERT INTO installation (id) VALUES ('inst_1')`,
    `INSERT INTO clusters (id, name, runtime) VALUES ('cluster_1', 'one', 'local')`,
    `INSERT INTO agents (id, cluster_id, name, runtime, runtime_identity, signing_key, signing_thumbprint, sealing_key)
      VALUES ('agent_1', 'cluster_1', 'one', 'local', 'machine', '{}', 'key', '{}')`,
  ])
    await sql.raw(statement).execute(db);
  expect(await db.transaction().execute((tx) => readSince(tx, "inst_2"))).toBeUndefined();
  const since = await db.transaction().execute((tx) => readSince(tx, "inst_1"));
  expect(since?.agents.get("agent_1")).toMatchObject({ thumbprint: "key", clientCertificate: undefined, replaced: [] });
});
