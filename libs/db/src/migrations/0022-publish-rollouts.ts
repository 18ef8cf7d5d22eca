/** How a publish goes from agent to agent. Only adds: an older replica gives it to all at once. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    ALTER TABLE product_publishes
      ADD COLUMN max_parallel integer NOT NULL DEFAULT 0,
      ADD COLUMN auto_revert boolean NOT NULL DEFAULT false,
      ADD COLUMN to_come integer NOT NULL DEFAULT 0`.execute(db);
}
