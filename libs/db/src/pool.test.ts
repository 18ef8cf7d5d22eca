import { expect, test } from "@jest/globals";
import { startEmbeddedPostgres, temporaryFolder, testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { openDatabase } from "./pool.ts";

test("a bigint is read as a number, and one that a number cannot hold is an error and not another number", async () => {
  const { db } = await testDatabase({ migrated: false });
  const { rows } = await sql<{ many: number }>`SELECT 9007199254740991::bigint AS many`.execute(db);
  expect(rows).toEqual([{ many: Number.MAX_SAFE_INTEGER }]);
  await expect(sql`SELECT 9007199254740993::bigint AS many`.execute(db)).rejects.toThrow(/9007199254740993/);
  expect((await sql<{ next: number }>`SELECT count(*) AS next FROM pg_class WHERE false`.execute(db)).rows).toEqual([
    { next: 0 },
  ]);
});

test("a statement that takes too long is cancelled by the server", async () => {
  const { address } = await testDatabase({ migrated: false });
  const pool = openDatabase({ address, applicationName: "impatient", statementTimeoutMs: 50 });
  await expect(sql`SELECT pg_sleep(60)`.execute(pool.db)).rejects.toThrow(/statement timeout/);
  await pool.end();
});

test("a caller who finds every connection in use is told so after the bound", async () => {
  const { address } = await testDatabase({ migrated: false });
  const pool = openDatabase({ address, applicationName: "full", maxConnections: 1, connectTimeoutMs: 500 });
  await until(() => sql`SELECT 1`.execute(pool.db)); // on a busy machine the first connection may take longer than that
  await pool.db.connection().execute(async () => {
    expect(pool.load()).toEqual({ total: 1, idle: 0, waiting: 0 });
    await expect(sql`SELECT 1`.execute(pool.db)).rejects.toThrow(/timeout/);
  });
  await pool.end();
});

test("a restart of PostgreSQL is reported and survived", async () => {
  const postgres = await startEmbeddedPostgres(temporaryFolder(), { durable: false });
  const lost: string[] = [];
  const pool = openDatabase({
    address: postgres.connection,
    applicationName: "survivor",
    onConnectionLost: (error) => lost.push(error.message),
  });
  await sql`SELECT 1`.execute(pool.db);
  process.kill(postgres.pid(), "SIGKILL");
  await until(() => lost.length > 0);
  await until(async () => (await sql`SELECT 1 AS one`.execute(pool.db)).rows.length === 1, { withinMs: 30_000 });
  await pool.end();
});

test("a connection that ends between two statements of a transaction fails that transaction, and nothing else", async () => {
  const { db, open } = await testDatabase({ migrated: false });
  const pool = open({ maxConnections: 1 });
  const cut = pool.db.transaction().execute(async (tx) => {
    const { rows } = await sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`.execute(tx);
    const gone = sql<{ left: number }>`SELECT count(*) AS left FROM pg_stat_activity WHERE pid = ${rows[0]?.pid}`;
    await sql`SELECT pg_terminate_backend(${rows[0]?.pid})`.execute(db);
    await until(async () => (await gone.execute(db)).rows[0]?.left === 0);
    await sql`SELECT 1`.execute(tx);
  });
  await expect(cut).rejects.toThrow();
  expect((await sql`SELECT 1 AS one`.execute(pool.db)).rows).toEqual([{ one: 1 }]);
});

test("the end of a pool may be asked for twice, and without use", async () => {
  const pool = openDatabase({ address: "postgres://nobody@127.0.0.1:1/none", applicationName: "unused" });
  await pool.end();
  await pool.end();
  expect(pool.load().total).toBe(0);
});

test("a statement that a connection planned while its table was empty still goes by the index when it has grown", async () => {
  const { open } = await testDatabase({ migrated: false });
  const pool = open({ maxConnections: 1 });
  await pool.db.connection().execute(async (one) => {
    await sql`CREATE TABLE grown (id text PRIMARY KEY, wide char(700) NOT NULL DEFAULT '')`.execute(one);
    await sql`PREPARE look (text[]) AS SELECT id, wide FROM grown WHERE id = ANY ($1)`.execute(one);
    await sql`SET plan_cache_mode = force_generic_plan`.execute(one); // as after some times by itself
    await sql`EXECUTE look ('{a,b}')`.execute(one);
    await sql`INSERT INTO grown (id) SELECT n::text FROM generate_series(1, 2000) AS n`.execute(one);
    const { rows } = await sql<Record<string, string>>`EXPLAIN EXECUTE look ('{a,b}')`.execute(one);
    const plan = rows.map((row) => Object.values(row).join()).join("\n");
    expect(plan).toContain("$1"); // the plan that it keeps
    expect(plan).toMatch(/Index|Bitmap/);
    expect(plan).not.toContain("Seq Scan");
  });
});
