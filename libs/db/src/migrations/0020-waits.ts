/** Which services of a stack wait for an agent, and what the agents lack. Only adds. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`ALTER TABLE stacks ADD COLUMN waits jsonb NOT NULL DEFAULT '[]'`.execute(db);
}
