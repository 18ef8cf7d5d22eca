/**
 * Migrations: forward only, each in the history for good. A released one never
 * changes; what an older replica still reads is not dropped in the same release.
 */
import { type Kysely, sql } from "kysely";
import { type Migration, Migrator } from "kysely/migration";
import type { Database } from "./tables.ts";
import * as spine from "./migrations/0001-spine.ts";
import * as publishOrder from "./migrations/0002-publish-order.ts";
import * as conflicts from "./migrations/0003-conflicts.ts";
import * as polling from "./migrations/0004-polling.ts";
import * as replacedKeys from "./migrations/0005-replaced-keys.ts";
import * as hotPaths from "./migrations/0006-hot-paths.ts";
import * as histories from "./migrations/0007-histories.ts";
import * as drift from "./migrations/0008-drift.ts";
import * as secrets from "./migrations/0009-secrets.ts";
import * as clientCertificates from "./migrations/0010-client-certificates.ts";
import * as history from "./migrations/0011-history.ts";
import * as traces from "./migrations/0012-traces.ts";

const migrations: Record<string, Migration> = {
  "0001-spine": spine,
  "0002-publish-order": publishOrder,
  "0003-conflicts": conflicts,
  "0004-polling": polling,
  "0005-replaced-keys": replacedKeys,
  "0006-hot-paths": hotPaths,
  "0007-histories": histories,
  "0008-drift": drift,
  "0009-secrets": secrets,
  "0010-client-certificates": clientCertificates,
  "0011-history": history,
  "0012-traces": traces,
};

/** Names of all migrations, oldest first. */
export const migrationNames: readonly string[] = Object.keys(migrations).sort();

/** Name of the newest migration that this build knows. */
export const latestMigration: string = migrationNames.at(-1) ?? "";

export type MigrationReport = { applied: string[]; current: string };

/**
 * Brings the database to the newest schema. Takes a lock, so that of two
 * servers one migrates and the other waits. Throws what a migration threw; that
 * one is rolled back whole. `to` stops at an older schema, for tests of what
 * follows it.
 */
export async function migrate(db: Kysely<Database>, to = latestMigration): Promise<MigrationReport> {
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } });
  const { error, results } = await migrator.migrateTo(to);
  if (error !== undefined) throw error;
  return { applied: (results ?? []).map((result) => result.migrationName), current: to };
}

/** Names of migrations that the database lacks; without changing anything. */
export async function pendingMigrations(db: Kysely<Database>): Promise<string[]> {
  const { rows } = await sql<{
    present: boolean;
  }>`SELECT to_regclass('kysely_migration') IS NOT NULL AS present`.execute(db);
  const done = rows[0]?.present
    ? (await sql<{ name: string }>`SELECT name FROM kysely_migration`.execute(db)).rows.map((row) => row.name)
    : [];
  return Object.keys(migrations).filter((name) => !done.includes(name));
}
