/**
 * What a transaction notes for watches, as one row until the sequencer gives
 * each its position: events come into their table with it, and are not written
 * twice.
 *
 * Safe beside a server of the schema before: it notes into `events` and places
 * what it finds there, which newer ones do too, and it reads what they place.
 * Sets it does not see: one of the newer ones places them.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `CREATE TABLE event_sets (
    id bigint PRIMARY KEY DEFAULT nextval('event_id'),
    topics text[] NOT NULL,
    subjects text[] NOT NULL,
    organisations text[] NOT NULL,
    clusters text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  // Nobody looks for an event by its id but whoever places one that was noted the old way; that one has its time too.
  `DROP INDEX events_id`,
];
