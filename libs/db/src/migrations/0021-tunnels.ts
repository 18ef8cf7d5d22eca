/** Tunnels that wait for their agent or are open. Only adds; nothing of it outlives its replica. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `CREATE TABLE tunnels (
    id text PRIMARY KEY,
    agent_id text NOT NULL REFERENCES agents ON DELETE CASCADE,
    replica_id text NOT NULL,
    home_url text NOT NULL,
    purpose text NOT NULL,
    principal_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE INDEX tunnels_agent ON tunnels (agent_id)`,
  `CREATE INDEX tunnels_principal ON tunnels (principal_id)`,
];
