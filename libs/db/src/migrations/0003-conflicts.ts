/**
 * Which processes an agent's newest one has displaced, and why an agent is in
 * CONFLICT. Only adds: a server of the schema before reads and writes as ever.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `ALTER TABLE agents ADD COLUMN conflict text NOT NULL DEFAULT ''
    CHECK (conflict IN ('', 'TWO_PROCESSES', 'OTHER_RUNTIME'))`,
  `ALTER TABLE agents ADD COLUMN conflict_runtime_identity text NOT NULL DEFAULT ''`,
  `CREATE TABLE displaced_processes (
    agent_id text NOT NULL REFERENCES agents ON DELETE CASCADE,
    process_id text NOT NULL,
    displaced_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, process_id)
  )`,
];
