/**
 * Puts a backup into an empty database: its schema, its rows, then the
 * migrations since. One transaction, so that a restore that fails leaves what
 * was there before it.
 */
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { Kysely, PostgresDialect, sql, type Transaction } from "kysely";
import type pg from "pg";
import { from } from "pg-copy-streams";
import { migrate } from "../migrate.ts";
import type { DatabaseAddress } from "../pool.ts";
import type { Database } from "../tables.ts";
import { type BackedUpTable, BackupError, connectAlone, type Manifest, type ReportProgress } from "./manifest.ts";

export interface LoadOptions<Kept, T> {
  address: DatabaseAddress;
  folder: string;
  /** Of verifyBackup (B3). */
  manifest: Manifest;
  /** Drop the tables that the database has, in the same transaction. */
  replace: boolean;
  report: ReportProgress;
  migrated?: (name: string) => void;
  /** What the restore keeps of a database that is replaced, before it goes. */
  keep: (tx: Transaction<Database>) => Promise<Kept>;
  /** What else belongs to the restore, in the same transaction. */
  finish: (tx: Transaction<Database>, kept: Kept | undefined) => Promise<T>;
}

/** Throws DATABASE_NOT_EMPTY, SERVER_RUNNING, BACKUP_DOES_NOT_FIT, BACKUP_DAMAGED; the database is as it was then. */
export async function load<Kept, T>(options: LoadOptions<Kept, T>): Promise<T> {
  const { address, manifest, folder, report } = options;
  const client = await connectAlone(address, "bowline restore");
  const alone = Object.assign(client, { release: () => {} });
  // One connection for both: COPY has no place in the query builder, and must be in its transaction.
  const db = new Kysely<Database>({
    dialect: new PostgresDialect({ pool: { connect: async () => alone, end: () => client.end(), options: {} } }),
  });
  try {
    const value = await db.transaction().execute(async (tx) => {
      const present = await tablesIn(tx);
      if (present.length > 0) await mayBeReplaced(tx, present, options.replace);
      const kept = present.length > 0 ? await options.keep(tx) : undefined;
      await dropTables(tx, present);
      await migrate(tx, manifest.schema);
      await makePartitions(tx, manifest);
      await checkColumns(tx, manifest);
      const names = manifest.tables.map(({ name }) => client.escapeIdentifier(name));
      await sql.raw(`TRUNCATE ${names.join(", ")} CASCADE`).execute(tx); // what migrations write into a new database
      for (const [index, table] of manifest.tables.entries()) {
        await copyIn(client, folder, table);
        report({ table: index + 1, of: manifest.tables.length, ...table });
      }
      for (const { name, value: last } of manifest.sequences) {
        if (last !== null) await sql`SELECT setval(${client.escapeIdentifier(name)}::regclass, ${last})`.execute(tx);
      }
      const { applied } = await migrate(tx);
      for (const name of applied) options.migrated?.(name);
      return options.finish(tx, kept);
    });
    await client.query("ANALYZE");
    return value;
  } finally {
    await db.destroy();
  }
}

async function tablesIn(tx: Transaction<Database>): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`SELECT c.relname AS name FROM pg_class AS c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND NOT EXISTS (SELECT 1 FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')`.execute(tx);
  return rows.map(({ name }) => name);
}

async function mayBeReplaced(tx: Transaction<Database>, present: string[], replace: boolean): Promise<void> {
  if (present.includes("replicas")) {
    await sql`LOCK TABLE replicas IN SHARE MODE`.execute(tx); // a server that starts now waits for the end of this
    const { rows } = await sql<{ seconds: number }>`SELECT ceil(extract(epoch FROM lease_until - now()))::int AS seconds
      FROM replicas WHERE lease_until > now() ORDER BY 1 DESC`.execute(tx);
    const [longest] = rows;
    if (longest !== undefined) {
      throw new BackupError(
        "SERVER_RUNNING",
        `${rows.length} server(s) run on this database: stop them first. One that was killed counts for ${longest.seconds} s more`,
      );
    }
  }
  if (replace) return;
  throw new BackupError(
    "DATABASE_NOT_EMPTY",
    `the database has ${present.length} tables: name an empty one, or add --replace to drop what is there`,
  );
}

/** And the sequences that belong to no table. Not the schema: it may be somebody else's. */
async function dropTables(tx: Transaction<Database>, names: readonly string[]): Promise<void> {
  if (names.length === 0) return;
  await sql`DROP TABLE ${sql.join(names.map((name) => sql.id(name)))} CASCADE`.execute(tx);
  const { rows } = await sql<{ name: string }>`SELECT relname AS name FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'S'`.execute(tx);
  for (const { name } of rows) await sql`DROP SEQUENCE ${sql.id(name)}`.execute(tx);
}

/** The backup's, in place of those that the schema began with: each row has its place. */
async function makePartitions(tx: Transaction<Database>, manifest: Manifest): Promise<void> {
  if (manifest.partitions.length === 0) return;
  const { rows } = await sql<{ name: string }>`SELECT quote_ident(relname) AS name FROM pg_class
    WHERE relispartition AND relkind = 'r' AND relnamespace = current_schema()::regnamespace`.execute(tx);
  for (const { name } of rows) await sql.raw(`DROP TABLE ${name}`).execute(tx);
  for (const { parent, name, bound } of manifest.partitions) {
    await sql`CREATE TABLE ${sql.id(name)} PARTITION OF ${sql.id(parent)} ${sql.raw(bound)}`.execute(tx);
  }
}

async function checkColumns(tx: Transaction<Database>, manifest: Manifest): Promise<void> {
  const { rows } = await sql<{ name: string }>`SELECT table_name || '.' || column_name AS name
    FROM information_schema.columns WHERE table_schema = current_schema()`.execute(tx);
  const known = new Set(rows.map((row) => row.name));
  const unknown = manifest.tables
    .flatMap(({ name, columns }) => columns.map((column) => `${name}.${column}`))
    .filter((column) => !known.has(column));
  if (unknown.length > 0)
    throw new BackupError(
      "BACKUP_DOES_NOT_FIT",
      `the schema ${manifest.schema} has no ${unknown.slice(0, 10).join(", ")}`,
    );
}

async function copyIn(client: pg.Client, folder: string, table: BackedUpTable): Promise<void> {
  const list = table.columns.map((column) => client.escapeIdentifier(column)).join(", ");
  const rows = client.query(from(`COPY ${client.escapeIdentifier(table.name)} (${list}) FROM STDIN`));
  await pipeline(createReadStream(join(folder, table.file)), createGunzip(), rows);
  if (rows.rowCount !== table.rows) {
    throw new BackupError("BACKUP_DAMAGED", `${table.file} has ${rows.rowCount} rows instead of ${table.rows}`);
  }
}
