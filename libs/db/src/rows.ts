/** Rows of any number in one statement whose text stays the same, so that a connection plans it once. */
import { type Insertable, type Kysely, sql } from "kysely";
import type { Database } from "./tables.ts";

/** Columns by PostgreSQL's type. */
export type Columns<Name extends string> = {
  readonly [Type in "text" | "int" | "bool" | "bytea" | "jsonb"]?: readonly Name[];
};

/** A row of these columns. */
export type RowOf<Of extends Columns<string>> = Record<
  NonNullable<Of[keyof Of & keyof Columns<string>]>[number],
  unknown
>;

/** Inserts rows, of each the columns that are named; jsonb comes as text. Nothing happens where there are none. */
export async function insertRows<Table extends keyof Database, Name extends keyof Insertable<Database[Table]> & string>(
  db: Kysely<Database>,
  table: Table,
  columns: Columns<Name>,
  rows: readonly Readonly<Record<Name, unknown>>[],
): Promise<void> {
  if (rows.length === 0) return;
  const typed = (Object.entries(columns) as [string, readonly Name[]][]).flatMap(([type, names]) =>
    names.map((name) => ({ type, name })),
  );
  await sql`
    INSERT INTO ${sql.table(table)} (${sql.join(typed.map(({ name }) => sql.ref(name)))})
    SELECT * FROM unnest(${sql.join(
      typed.map(({ type, name }) => sql`${rows.map((row) => row[name])}::${sql.raw(type)}[]`),
    )})`.execute(db);
}
