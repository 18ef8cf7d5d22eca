import { expect, test } from "@jest/globals";
import { openDatabase } from "@bowline/db";
import { sql } from "kysely";
import { testDatabase } from "./postgres.ts";

test("two test databases do not see each other's rows", async () => {
  const [one, two] = [await testDatabase(), await testDatabase()];
  await sql`CREATE TABLE only_here (id int)`.execute(one.db);
  const seen = await sql<{ found: string | null }>`SELECT to_regclass('only_here') AS found`.execute(two.db);
  expect(seen.rows).toEqual([{ found: null }]);
});

test("the URL of a test database leads a separate pool to it, over the unix socket too", async () => {
  const database = await testDatabase({ migrated: false });
  const pool = openDatabase({ address: database.url, applicationName: "by URL" });
  const { rows } = await sql<{ name: string }>`SELECT current_database() AS name`.execute(pool.db);
  await pool.end();
  expect(rows).toEqual([{ name: database.name }]);
});

test("a connection that a test leaves open fails its end, and the database is dropped all the same", async () => {
  const database = await testDatabase({ migrated: false });
  const forgotten = openDatabase({ address: database.address, applicationName: "forgotten" });
  await sql`SELECT 1`.execute(forgotten.db);
  await expect(database.end(1_000)).rejects.toThrow(/forgotten \(idle\)/);
  await forgotten.end();
});
