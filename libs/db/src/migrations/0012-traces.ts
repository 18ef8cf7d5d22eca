/** The trace that a command belongs to. Only adds: a server of the schema before enqueues without one, as ever. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  // W3C traceparent of its enqueue; empty: it is not traced.
  await sql`ALTER TABLE commands ADD COLUMN trace_parent text NOT NULL DEFAULT ''`.execute(db);
}
