/**
 * Sessions without a stream. Only adds: a server of the schema before opens
 * streams as ever. What it leaves in these columns of an older poll session is
 * not read: a stream's session is never polled.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `ALTER TABLE sessions ADD COLUMN transport text NOT NULL DEFAULT 'STREAM' CHECK (transport IN ('STREAM', 'POLL'))`,
  // What the opening found out and the end of Sync needs, on whichever replica that is.
  `ALTER TABLE sessions ADD COLUMN journal_whole boolean NOT NULL DEFAULT false`,
  // Number of the poll with which the session came to its replica.
  `ALTER TABLE sessions ADD COLUMN poll_number integer NOT NULL DEFAULT 0`,
];
