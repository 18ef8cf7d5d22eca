/**
 * Image registries of organisations, and which secrets came with a stack. Only adds: a server of the schema before
 * makes specs without registries, and leaves secrets of stacks where they are.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `CREATE TABLE registries (
    id text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    host text NOT NULL,
    username text NOT NULL,
    password_encrypted bytea NOT NULL,
    description text NOT NULL DEFAULT '',
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    password_set_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation_id, host)
  )`,
  // Hosts, as a JSON list. Beside the bytes, so that a fetch need not read them.
  `ALTER TABLE deployment_generations ADD COLUMN registries jsonb NOT NULL DEFAULT '[]'`,
  `ALTER TABLE secrets ADD COLUMN stack_id text NOT NULL DEFAULT ''`,
  `CREATE INDEX secrets_stack ON secrets (stack_id) WHERE stack_id <> ''`,
];
