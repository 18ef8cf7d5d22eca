/**
 * History of tasks: which revision and rollout a command is of, and indexes for
 * each way in which people look for what was done. Only adds.
 *
 * Every index ends with the id: ids sort by the time of their making, so a page
 * of the newest that match is read from the index's end, however many there are.
 */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

/** Endings that people look for, and that are few beside those that succeeded. */
const unsuccessful = "('FAILED', 'CANCELLED', 'SUPERSEDED', 'EXPIRED', 'LOST')";

const statements = [
  ...["commands", "ended_commands"].flatMap((table) => [
    `ALTER TABLE ${table} ADD COLUMN revision integer NOT NULL DEFAULT 0`,
    `ALTER TABLE ${table} ADD COLUMN rollout_id text NOT NULL DEFAULT ''`,
    `CREATE INDEX ${table}_owner ON ${table} (owner_id, id)`,
    `CREATE INDEX ${table}_creator ON ${table} (created_by, id)`,
  ]),
  // The other one has had it from the start.
  `CREATE INDEX commands_agent ON commands (agent_id, id)`,
  `CREATE INDEX command_states_unsuccessful ON command_states (state, command_id) WHERE state IN ${unsuccessful}`,
  `CREATE INDEX ended_commands_unsuccessful ON ended_commands (state, id) WHERE state IN ${unsuccessful}`,
  // What is open, or ended lately, is little; what has ended is not.
  `CREATE INDEX ended_commands_cluster ON ended_commands (cluster_id, id)`,
  `CREATE INDEX ended_commands_organisation ON ended_commands (organisation_id, id)`,
];
