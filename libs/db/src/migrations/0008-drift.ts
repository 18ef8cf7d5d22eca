/** Finding what has drifted, and what agents carry that belongs to no known deployment. Only adds. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `CREATE INDEX deployments_drifted ON deployments (id) WHERE drifted`,
  // Of the session that told it: the next one tells everything anew.
  `CREATE TABLE strays (
    agent_id text NOT NULL REFERENCES agents ON DELETE CASCADE,
    deployment_id text NOT NULL,
    epoch integer NOT NULL,
    generation integer NOT NULL,
    instances jsonb NOT NULL DEFAULT '[]',
    observed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, deployment_id)
  )`,
];
