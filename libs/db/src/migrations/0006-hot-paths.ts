/**
 * Indexes for statements that looked through history: a deployment's open
 * commands, and what failed at a gateway. Only adds.
 */
import { type Kysely, sql } from "kysely";
import { openCommandStates, sqlList } from "../command-states.ts";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `CREATE INDEX command_states_deployment_open ON command_states (deployment_id) WHERE state IN (${sqlList(openCommandStates)})`,
  `CREATE INDEX product_publishes_failed ON product_publishes (cluster_id, gateway_id) WHERE state = 'FAILED'`,
];
