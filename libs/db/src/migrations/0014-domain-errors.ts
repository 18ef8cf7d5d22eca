/** Finding commands whose owner's slice is still to be told. Only adds. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql
    .raw(`CREATE INDEX command_states_domain_error ON command_states (command_id) WHERE domain_error <> ''`)
    .execute(db);
}
