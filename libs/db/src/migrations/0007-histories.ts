/**
 * The database's history can fork: by a restore, by a failover that lost its
 * tail. What agents have of another history, why one awaits a decision, and
 * that dispatch is held after a restore. Only adds: a server of the schema
 * before reads and writes as ever, and does not know of the hold.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `ALTER TABLE installation ADD COLUMN dispatch_held_at timestamptz`,
  `ALTER TABLE agents ADD COLUMN decision text NOT NULL DEFAULT ''
    CHECK (decision IN ('', 'INCARNATION_AHEAD', 'DEPLOYMENTS_DIFFER'))`,
  // settled_at: an operator has answered; the same generation and digest is not asked about again.
  `CREATE TABLE agent_disputes (
    agent_id text NOT NULL REFERENCES agents ON DELETE CASCADE,
    deployment_id text NOT NULL,
    why text NOT NULL CHECK (why IN ('GENERATION_AHEAD', 'DIGEST_DIFFERS', 'UNKNOWN_DEPLOYMENT')),
    agent_generation integer NOT NULL,
    agent_digest text NOT NULL,
    runs boolean NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    PRIMARY KEY (agent_id, deployment_id)
  )`,
];
