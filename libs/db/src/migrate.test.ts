/** Each migration from the schema before, with data in it; and the server of that schema goes on beside it. */
import { expect, test } from "@jest/globals";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { latestMigration, migrate, pendingMigrations, SchemaError } from "./migrate.ts";

/** What a server of the first schema writes: an agent with a session, a publish, a draft. */
const writes = (name: string) => [
  `INSERT INTO organisations (id, name) VALUES ('org_${name}', '${name}')`,
  `INSERT INTO clusters (id, name, runtime) VALUES ('cluster_${name}', '${name}', 'local')`,
  `INSERT INTO agents (id, cluster_id, name, runtime, runtime_identity, signing_key, signing_thumbprint, sealing_key)
    VALUES ('agent_${name}', 'cluster_${name}', '${name}', 'local', 'machine', '{}', '${name}', '{}')`,
  `INSERT INTO sessions (agent_id, id, epoch, replica_id, state) VALUES ('agent_${name}', 's', 1, 'r', 'SERVING')`,
  `INSERT INTO gateways (id, organisation_id, name, gateway_class, listeners)
    VALUES ('gateway_${name}', 'org_${name}', '${name}', 'embedded', '[]')`,
  `INSERT INTO products (id, organisation_id, name) VALUES ('product_${name}', 'org_${name}', '${name}')`,
  `INSERT INTO product_revisions (id, product_id, number, content, digest, created_by)
    VALUES ('revision_${name}', 'product_${name}', 1, '', '', 'test')`,
  ...["LIVE", "DRAFT"].map(
    (state) => `INSERT INTO product_publishes
      (id, organisation_id, product_id, revision_id, cluster_id, gateway_id, state, created_by)
      VALUES ('${state}_${name}', 'org_${name}', 'product_${name}', 'revision_${name}', 'cluster_${name}',
        'gateway_${name}', '${state}', 'test')`,
  ),
];

/** Of one width, so that the database sorts them as they were made. */
const version = (index: number): string => `v${String(index + 1).padStart(2, "0")}`;

test("each migration keeps what was written before it, and takes what a server of the first schema still writes", async () => {
  const { db } = await testDatabase({ migrated: false });
  const write = async (name: string) => {
    for (const statement of writes(name)) await sql.raw(statement).execute(db);
  };
  const names = await pendingMigrations(db);
  expect(names.at(-1)).toBe(latestMigration);
  for (const [index, name] of names.entries()) {
    expect(await migrate(db, name)).toEqual({ applied: [name], current: name, newer: false });
    await write(version(index));
  }
  const ids = names.map((_, index) => `agent_${version(index)}`);
  const agents = await db.selectFrom("agents").selectAll().orderBy("id").execute();
  expect(agents.map(({ id, state, conflict }) => ({ id, state, conflict }))).toEqual(
    ids.map((id) => ({ id, state: "ENROLLED", conflict: "" })),
  );
  const before = await db
    .selectFrom("product_publishes")
    .select(["id", "created_at", "deployed_at"])
    .where("id", "like", "%_v01")
    .orderBy("id")
    .execute();
  expect(before.map(({ id, deployed_at }) => [id, deployed_at])).toEqual([
    ["DRAFT_v01", null],
    ["LIVE_v01", before[1]?.created_at],
  ]);
  expect(await pendingMigrations(db)).toEqual([]);
  expect((await migrate(db)).applied).toEqual([]);
});

test("a schema of a newer build is left as it is, unless it says that builds like this one do not work on it", async () => {
  const { db } = await testDatabase();
  await db.insertInto("installation").values({ id: "installation_newer" }).execute();
  await sql`INSERT INTO kysely_migration (name, timestamp) VALUES ('9998-newer', '')`.execute(db);
  expect(await migrate(db)).toEqual({ applied: [], current: "9998-newer", newer: true });
  expect(await pendingMigrations(db)).toEqual([]);
  await db.updateTable("installation").set({ oldest_schema: latestMigration }).execute();
  expect(await migrate(db)).toMatchObject({ newer: true });

  await db.updateTable("installation").set({ oldest_schema: "9997-ends-what-was" }).execute();
  const refused = await migrate(db).catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(SchemaError);
  expect(String(refused)).toMatch(
    /upgraded to the schema 9998-newer.*before the schema 9997-ends-what-was do not work/,
  );
});
