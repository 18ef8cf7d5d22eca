/**
 * What the progress deadline needs to know of single instances. Only adds: what an older replica writes makes no
 * progress by instances, only by agents, as it did.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`ALTER TABLE instances ADD COLUMN renewed_at timestamptz NOT NULL DEFAULT now()`.execute(db);
  await sql`
    ALTER TABLE stack_targets
      ADD COLUMN checked jsonb NOT NULL DEFAULT '[]',
      ADD COLUMN healthy_instances integer NOT NULL DEFAULT 0`.execute(db);
}
