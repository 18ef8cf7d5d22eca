/** tables.ts against the schema that the migrations make. */
import { globSync, readFileSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";

/** Columns by table as tables.ts and the files beside it declare them; a trailing `?` says that they may be null. */
function declared(): Record<string, string[]> {
  const source = globSync("tables*.ts", { cwd: import.meta.dirname, exclude: ["*.test.ts"] })
    .map((file) => readFileSync(new URL(file, import.meta.url), "utf8"))
    .join("\n");
  const interfaces = new Map<string, string[]>();
  for (const [, name = "", body = ""] of source.matchAll(/export interface (\w+) \{\n([^}]*)\}/g)) {
    const columns = [...body.matchAll(/^ {2}(\w+): (.*);$/gm)].map(([, column = "", type = ""]) =>
      /\| null|JsonOrNull/.test(type) ? `${column}?` : column,
    );
    interfaces.set(name, columns);
  }
  const database = /export interface Database \{\n([^}]*)\}/.exec(source)?.[1] ?? "";
  return Object.fromEntries(
    [...database.matchAll(/^ {2}(\w+): (\w+);$/gm)].map(([, table = "", type = ""]) => [
      table,
      (interfaces.get(type) ?? []).toSorted(),
    ]),
  );
}

test("tables.ts names exactly the tables, columns and nulls that the migrations make", async () => {
  const { db } = await testDatabase();
  const { rows } = await sql<{ table: string; columns: string[] }>`
    SELECT table_name AS table, array_agg(column_name || CASE is_nullable WHEN 'YES' THEN '?' ELSE '' END ORDER BY column_name) AS columns
    FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name NOT LIKE 'kysely_%'
      AND NOT (SELECT relispartition FROM pg_class WHERE oid = table_name::regclass)
    GROUP BY table_name`.execute(db);
  const made = Object.fromEntries(rows.map(({ table, columns }) => [table, [...columns].toSorted()]));
  expect(declared()).toEqual(made);
});
