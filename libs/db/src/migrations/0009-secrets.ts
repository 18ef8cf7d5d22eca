/** Secrets of organisations. Only adds: a server of the schema before makes specs without secrets, as ever. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `CREATE TABLE secrets (
    id text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    name text NOT NULL,
    version integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation_id, name)
  )`,
  `CREATE TABLE secret_versions (
    secret_id text NOT NULL REFERENCES secrets ON DELETE CASCADE,
    version integer NOT NULL,
    value_encrypted bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (secret_id, version)
  )`,
  // By name: which version a spec is made with, as \`<secret id>/<version>\`. Beside the bytes, so that a fetch need not read them.
  `ALTER TABLE deployment_generations ADD COLUMN secrets jsonb NOT NULL DEFAULT '{}'`,
  `CREATE INDEX deployment_generations_secrets ON deployment_generations (deployment_id, generation) WHERE secrets <> '{}'`,
];
