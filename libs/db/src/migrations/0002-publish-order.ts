/**
 * When a publish was deployed: which one of a place is the newest goes by that,
 * because a draft may be deployed long after it was made, or never.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `ALTER TABLE product_publishes ADD COLUMN deployed_at timestamptz`,
  `UPDATE product_publishes SET deployed_at = created_at WHERE state <> 'DRAFT'`,
  `DROP INDEX product_publishes_place`,
  `CREATE INDEX product_publishes_place ON product_publishes (cluster_id, gateway_id, product_id, deployed_at)`,
];
