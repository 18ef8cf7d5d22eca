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
import * as oldestSchema from "./migrations/0013-oldest-schema.ts";
import * as domainErrors from "./migrations/0014-domain-errors.ts";
import * as eventSets from "./migrations/0015-event-sets.ts";
import * as stacks from "./migrations/0016-stacks.ts";
import * as tasks from "./migrations/0017-tasks.ts";
import * as registries from "./migrations/0018-registries.ts";
import * as sideBySide from "./migrations/0019-side-by-side.ts";
import * as waits from "./migrations/0020-waits.ts";
import * as tunnels from "./migrations/0021-tunnels.ts";
import * as publishRollouts from "./migrations/0022-publish-rollouts.ts";
import * as progress from "./migrations/0023-progress.ts";

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
  "0013-oldest-schema": oldestSchema,
  "0014-domain-errors": domainErrors,
  "0015-event-sets": eventSets,
  "0016-stacks": stacks,
  "0017-tasks": tasks,
  "0018-registries": registries,
  "0019-side-by-side": sideBySide,
  "0020-waits": waits,
  "0021-tunnels": tunnels,
  "0022-publish-rollouts": publishRollouts,
  "0023-progress": progress,
};

/** Names of all migrations, oldest first. */
export const migrationNames: readonly string[] = Object.keys(migrations).sort();

/** Name of the newest migration that this build knows. */
export const latestMigration: string = migrationNames.at(-1) ?? "";

/** A replica that serves holds locks for milliseconds: meeting one five times in a row is another trouble. */
const attempts = 5;

export interface MigrationReport {
  applied: string[];
  current: string;
  /** A newer build has migrated the database, and this one may run beside it. */
  newer: boolean;
}

/** The database is of another build's schema. The message says what to do. */
export class SchemaError extends Error {
  readonly reason = "SCHEMA_TOO_NEW";
  override readonly name = "SchemaError";
}

/**
 * Brings the database to the newest schema. Takes a lock, so that of two
 * servers one migrates and the other waits. Throws what a migration threw; that
 * one is rolled back whole. `to` stops at an older schema, for tests of what
 * follows it.
 *
 * A schema that is newer than this build is left as it is: during an upgrade a
 * replica of the version before may start again. Throws a SchemaError where a
 * migration has ended that.
 */
export async function migrate(db: Kysely<Database>, to = latestMigration): Promise<MigrationReport> {
  const current = await newerSchema(db);
  if (current !== undefined) return { applied: [], current, newer: true };
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } });
  let { error, results } = await migrator.migrateTo(to);
  for (let again = 1; isDeadlock(error) && again < attempts; again += 1) {
    ({ error, results } = await migrator.migrateTo(to));
  }
  if (error === undefined) {
    return { applied: (results ?? []).map((result) => result.migrationName), current: to, newer: false };
  }
  // A newer build was first, between the look above and the lock.
  const meanwhile = await newerSchema(db);
  if (meanwhile === undefined) throw error;
  return { applied: [], current: meanwhile, newer: true };
}

/** Of two transactions that wait for one another PostgreSQL undoes one; that was the migration, beside a busy replica. */
function isDeadlock(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "40P01";
}

/** The name of the newest migration where it is one of a newer build, beside which this one may run. */
async function newerSchema(db: Kysely<Database>): Promise<string | undefined> {
  const current = (await done(db)).toSorted().at(-1) ?? "";
  if (current <= latestMigration) return undefined;
  const { oldest_schema: oldest } = await db
    .selectFrom("installation")
    .select("oldest_schema")
    .executeTakeFirst()
    .then((row) => row ?? { oldest_schema: "" });
  if (latestMigration >= oldest) return current;
  throw new SchemaError(
    `The database was upgraded to the schema ${current}, on which builds before the schema ${oldest} do not work. ` +
      `This build has ${latestMigration}: start a newer one, or restore the backup from before the upgrade.`,
  );
}

/** Names of migrations that the database lacks; without changing anything. */
export async function pendingMigrations(db: Kysely<Database>): Promise<string[]> {
  const names = await done(db);
  return Object.keys(migrations).filter((name) => !names.includes(name));
}

/** Names of migrations that the database has had. */
async function done(db: Kysely<Database>): Promise<string[]> {
  const { rows } = await sql<{
    present: boolean;
  }>`SELECT to_regclass('kysely_migration') IS NOT NULL AS present`.execute(db);
  if (rows[0]?.present !== true) return [];
  return (await sql<{ name: string }>`SELECT name FROM kysely_migration`.execute(db)).rows.map(({ name }) => name);
}
