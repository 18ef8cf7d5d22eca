/**
 * History by time: events and audit events become partitioned tables, and
 * ended commands that a newer wish has replaced get a place of their own. What
 * is old goes with its partition.
 *
 * Safe beside a server of the schema before: every statement of it means the
 * same on the partitioned tables. It does not see the commands that were moved
 * to `ended_commands`: those are ended, old, and of a generation that nobody
 * wants any more; a result that an agent repeats for one is answered UNKNOWN,
 * and kept for a newer replica.
 */
import { type Kysely, sql } from "kysely";
import { commandStates, sqlList } from "../command-states.ts";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const quoted = sqlList(Object.keys(commandStates));

/** A partition's name says its bounds, in seconds since 1970. That of what was there before begins at 0. */
const adopt = (table: string): string => `DO $$
  DECLARE upto bigint := (extract(epoch FROM now())::bigint / 3600 + 2) * 3600;
  BEGIN
    EXECUTE format('ALTER TABLE ${table}_before RENAME TO ${table}_p0_%s', upto);
    EXECUTE format('ALTER TABLE ${table} ATTACH PARTITION ${table}_p0_%s FOR VALUES FROM (MINVALUE) TO (to_timestamp(%s))', upto, upto);
    EXECUTE 'CREATE TABLE ${table}_default PARTITION OF ${table} DEFAULT';
  END $$`;

const statements = [
  // -- events: no identity and no key over all partitions; ids and positions are a sequence's -----
  `ALTER TABLE events RENAME TO events_before`,
  `ALTER TABLE events_before ALTER COLUMN id DROP IDENTITY`,
  `ALTER TABLE events_before DROP CONSTRAINT events_pkey`,
  `ALTER TABLE events_before DROP CONSTRAINT events_position_key`,
  `ALTER INDEX events_unplaced RENAME TO events_before_unplaced`,
  `ALTER INDEX events_age RENAME TO events_before_age`,
  `CREATE SEQUENCE event_id`,
  `SELECT setval('event_id', greatest((SELECT max(id) FROM events_before), 1))`,
  `CREATE TABLE events (
    id bigint NOT NULL DEFAULT nextval('event_id'),
    position bigint,
    topic text NOT NULL,
    subject_id text NOT NULL,
    organisation_id text NOT NULL DEFAULT '',
    cluster_id text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
  ) PARTITION BY RANGE (created_at)`,
  `CREATE INDEX events_id ON events (id)`,
  `CREATE INDEX events_position ON events (position)`,
  `CREATE INDEX events_unplaced ON events (id) WHERE position IS NULL`,
  adopt("events"),
  // What is at or below this position is no longer kept, whatever else still is.
  `CREATE TABLE event_floor (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    position bigint NOT NULL
  )`,
  `INSERT INTO event_floor (position) SELECT coalesce(
    (SELECT min(position) - 1 FROM events), (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM event_position))`,

  // -- audit events ---------------------------------------------------------------------------
  `ALTER TABLE audit_events RENAME TO audit_events_before`,
  `ALTER TABLE audit_events_before DROP CONSTRAINT audit_events_pkey`,
  `ALTER INDEX audit_events_at RENAME TO audit_events_before_at`,
  `ALTER INDEX audit_events_resource RENAME TO audit_events_before_resource`,
  `CREATE TABLE audit_events (
    id text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    principal_id text NOT NULL,
    principal text NOT NULL,
    organisation_id text NOT NULL DEFAULT '',
    action text NOT NULL,
    resource_kind text NOT NULL,
    resource_id text NOT NULL,
    before jsonb,
    after jsonb,
    remote_address text NOT NULL DEFAULT '',
    request_id text NOT NULL DEFAULT '',
    outcome text NOT NULL DEFAULT 'ok'
  ) PARTITION BY RANGE (at)`,
  `CREATE INDEX audit_events_id ON audit_events (id)`,
  `CREATE INDEX audit_events_at ON audit_events (at, id)`,
  `CREATE INDEX audit_events_resource ON audit_events (resource_id, at)`,
  adopt("audit_events"),

  // -- commands: what has ended and no longer says what is wanted -----------------------------------
  `CREATE TABLE ended_commands (
    id text NOT NULL,
    deployment_id text NOT NULL,
    agent_id text NOT NULL,
    cluster_id text NOT NULL,
    organisation_id text NOT NULL,
    generation integer NOT NULL,
    digest text NOT NULL,
    product_publish_id text NOT NULL,
    owner_kind text NOT NULL,
    owner_id text NOT NULL,
    is_removal boolean NOT NULL,
    reduces boolean NOT NULL,
    max_retries integer NOT NULL,
    run_timeout_ms integer NOT NULL,
    retry_of text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    priority smallint NOT NULL,
    state text NOT NULL CHECK (state IN (${quoted})),
    attempt integer NOT NULL,
    failures integer NOT NULL,
    due_at timestamptz,
    assigned_at timestamptz,
    received_at timestamptz,
    ended_at timestamptz NOT NULL,
    outcome_attempt integer,
    reason text NOT NULL,
    message text NOT NULL,
    superseded_by text NOT NULL,
    late_outcome text NOT NULL,
    domain_error text NOT NULL
  ) PARTITION BY RANGE (ended_at)`,
  `CREATE INDEX ended_commands_id ON ended_commands (id)`,
  `CREATE INDEX ended_commands_deployment ON ended_commands (deployment_id, id)`,
  `CREATE INDEX ended_commands_agent ON ended_commands (agent_id, id)`,
  `CREATE INDEX ended_commands_publish ON ended_commands (product_publish_id) WHERE product_publish_id <> ''`,
  `CREATE TABLE ended_commands_default PARTITION OF ended_commands DEFAULT`,
  // In the order in which they are looked at to be moved.
  `CREATE INDEX command_states_ended ON command_states (ended_at, command_id) WHERE ended_at IS NOT NULL`,
];
