/**
 * From which schema on a build may run on this one. A migration after which an
 * older build no longer works raises it; none has yet. Only adds: a build of the
 * schema before does not look.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql.raw(`ALTER TABLE installation ADD COLUMN oldest_schema text NOT NULL DEFAULT '0001-spine'`).execute(db);
}
