/**
 * Keys that agents had before: whoever signs with one is told so. Only adds: a
 * server of the schema before replaces no keys.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `CREATE TABLE replaced_keys (
    agent_id text NOT NULL REFERENCES agents ON DELETE CASCADE,
    thumbprint text NOT NULL,
    signing_key jsonb NOT NULL,
    because text NOT NULL CHECK (because IN ('REKEY', 'ROTATION')),
    replaced_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, thumbprint)
  )`,
];
