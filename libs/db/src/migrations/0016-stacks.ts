/** Stacks, their revisions, what they have at agents, and rollouts. Only adds. */
import { type Kysely, sql } from "kysely";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `CREATE TABLE stacks (
    id text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    name text NOT NULL,
    cluster_id text NOT NULL,
    desired text NOT NULL DEFAULT 'RUNNING',
    state text NOT NULL DEFAULT 'ROLLING_OUT',
    reason text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    revision integer NOT NULL,
    stable_revision integer NOT NULL DEFAULT 0,
    restart_stamps jsonb NOT NULL DEFAULT '{}',
    policy bytea NOT NULL DEFAULT '',
    limits bytea NOT NULL DEFAULT '',
    rollout_id text NOT NULL DEFAULT '',
    version integer NOT NULL DEFAULT 1,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE UNIQUE INDEX stacks_name ON stacks (organisation_id, name) WHERE state <> 'DELETED'`,
  `CREATE INDEX stacks_cluster ON stacks (cluster_id) WHERE state <> 'DELETED'`,
  `CREATE TABLE stack_revisions (
    stack_id text NOT NULL REFERENCES stacks ON DELETE CASCADE,
    number integer NOT NULL,
    model jsonb NOT NULL,
    normalised text NOT NULL,
    digest text NOT NULL,
    stable_at timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stack_id, number)
  )`,
  `CREATE TABLE stack_targets (
    stack_id text NOT NULL REFERENCES stacks ON DELETE CASCADE,
    agent_id text NOT NULL REFERENCES agents ON DELETE CASCADE,
    deployment_id text NOT NULL,
    generation integer NOT NULL DEFAULT 0,
    revision integer NOT NULL DEFAULT 0,
    wanted jsonb NOT NULL DEFAULT '{}',
    spec_digest text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'WAITING',
    command_id text NOT NULL DEFAULT '',
    rollout_id text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    healthy_since timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stack_id, agent_id)
  )`,
  `CREATE UNIQUE INDEX stack_targets_deployment ON stack_targets (deployment_id)`,
  `CREATE INDEX stack_targets_agent ON stack_targets (agent_id)`,
  `CREATE TABLE stack_rollouts (
    id text PRIMARY KEY,
    stack_id text NOT NULL REFERENCES stacks ON DELETE CASCADE,
    from_revision integer NOT NULL,
    to_revision integer NOT NULL,
    cause text NOT NULL,
    state text NOT NULL DEFAULT 'PENDING',
    reason text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    policy bytea NOT NULL,
    secrets jsonb NOT NULL DEFAULT '{}',
    done integer NOT NULL DEFAULT 0,
    total integer NOT NULL DEFAULT 0,
    progress_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz,
    followed_by text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
  )`,
  // At most one of a stack is under way.
  `CREATE UNIQUE INDEX stack_rollouts_open ON stack_rollouts (stack_id) WHERE ended_at IS NULL`,
  `CREATE INDEX stack_rollouts_due ON stack_rollouts (due_at) WHERE ended_at IS NULL`,
  `CREATE INDEX stack_rollouts_stack ON stack_rollouts (stack_id, id)`,
];
