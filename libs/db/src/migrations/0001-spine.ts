/**
 * The first schema: the installation, identity, clusters and agents, sessions,
 * deployments, commands, products, events, audit.
 *
 * Columns that people filter or join by are columns; what only travels through
 * is bytes (specs, as protobuf) or jsonb. Times are the database's. Long because a
 * migration is one step, and never changes once it is released.
 */
import { type Kysely, sql } from "kysely";
import { commandStates, sqlList } from "../command-states.ts";

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const quoted = sqlList(Object.keys(commandStates));
const open = sqlList(Object.entries(commandStates).flatMap(([name, { waits }]) => (waits === "nothing" ? [] : [name])));

const statements = [
  `CREATE TABLE installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id text NOT NULL,
    incarnation integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,

  // -- identity ---------------------------------------------------------------
  `CREATE TABLE organisations (
    id text PRIMARY KEY,
    name text NOT NULL UNIQUE,
    display_name text NOT NULL DEFAULT '',
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE TABLE service_accounts (
    id text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('admin', 'operator', 'provider', 'customer', 'viewer')),
    secret_hash bytea NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE UNIQUE INDEX service_accounts_live_name ON service_accounts (organisation_id, name) WHERE revoked_at IS NULL`,
  `CREATE TABLE signing_keys (
    id text PRIMARY KEY,
    public_jwk jsonb NOT NULL,
    private_encrypted bytea NOT NULL,
    usable_from timestamptz NOT NULL,
    usable_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE TABLE idempotency_keys (
    principal_id text NOT NULL,
    method text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    response bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal_id, method, key)
  )`,
  `CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at)`,

  // -- clusters and agents ----------------------------------------------------
  `CREATE TABLE clusters (
    id text PRIMARY KEY,
    name text NOT NULL UNIQUE,
    display_name text NOT NULL DEFAULT '',
    runtime text NOT NULL CHECK (runtime IN ('docker', 'kubernetes', 'local')),
    region text NOT NULL DEFAULT '',
    cloud_provider text NOT NULL DEFAULT '',
    labels jsonb NOT NULL DEFAULT '{}',
    capabilities jsonb NOT NULL DEFAULT '[]',
    is_default boolean NOT NULL DEFAULT false,
    is_active boolean NOT NULL DEFAULT true,
    policy jsonb NOT NULL DEFAULT '{}',
    deleting boolean NOT NULL DEFAULT false,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE UNIQUE INDEX clusters_one_default ON clusters (is_default) WHERE is_default`,
  // organisation_id is '*' for all, so it references nothing.
  `CREATE TABLE cluster_grants (
    cluster_id text NOT NULL REFERENCES clusters ON DELETE CASCADE,
    organisation_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster_id, organisation_id)
  )`,
  `CREATE TABLE registration_tokens (
    id text PRIMARY KEY,
    cluster_id text NOT NULL REFERENCES clusters ON DELETE CASCADE,
    secret_hash bytea NOT NULL,
    max_uses integer NOT NULL CHECK (max_uses > 0),
    uses integer NOT NULL DEFAULT 0 CHECK (uses <= max_uses),
    rekey_agent_id text,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE INDEX registration_tokens_cluster ON registration_tokens (cluster_id, created_at)`,
  `CREATE TABLE agents (
    id text PRIMARY KEY,
    cluster_id text NOT NULL REFERENCES clusters,
    name text NOT NULL,
    hostname text NOT NULL DEFAULT '',
    labels jsonb NOT NULL DEFAULT '{}',
    reported_labels jsonb NOT NULL DEFAULT '{}',
    capacity_limit integer NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'ENROLLED'
      CHECK (state IN ('ENROLLED', 'CONFLICT', 'AWAITING_DECISION', 'REVOKED', 'RETIRED')),
    cordoned boolean NOT NULL DEFAULT false,
    runtime text NOT NULL,
    runtime_identity text NOT NULL,
    runtime_version text NOT NULL DEFAULT '',
    runtime_problem text NOT NULL DEFAULT '',
    capabilities jsonb NOT NULL DEFAULT '[]',
    agent_version text NOT NULL DEFAULT '',
    signing_key jsonb NOT NULL,
    signing_thumbprint text NOT NULL,
    sealing_key jsonb NOT NULL,
    journal_id text NOT NULL DEFAULT '',
    journal_counter integer NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE UNIQUE INDEX agents_live_name ON agents (cluster_id, name) WHERE state NOT IN ('REVOKED', 'RETIRED')`,
  `CREATE UNIQUE INDEX agents_live_key ON agents (signing_thumbprint) WHERE state NOT IN ('REVOKED', 'RETIRED')`,
  `CREATE TABLE registration_token_uses (
    token_id text NOT NULL REFERENCES registration_tokens ON DELETE CASCADE,
    agent_id text NOT NULL REFERENCES agents ON DELETE CASCADE,
    thumbprint text NOT NULL,
    used_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (token_id, agent_id)
  )`,
  // Narrow and in no other index: written by every batch of heartbeats.
  `CREATE TABLE agent_seen (
    agent_id text PRIMARY KEY REFERENCES agents ON DELETE CASCADE,
    last_seen_at timestamptz NOT NULL,
    running integer NOT NULL DEFAULT 0,
    instance_limit integer NOT NULL DEFAULT 0,
    load_millis integer NOT NULL DEFAULT 0,
    memory_millis integer NOT NULL DEFAULT 0,
    disk_free_bytes bigint NOT NULL DEFAULT 0
  ) WITH (fillfactor = 50)`,

  // -- sessions ---------------------------------------------------------------
  `CREATE TABLE replicas (
    id text PRIMARY KEY,
    address text NOT NULL DEFAULT '',
    server_version text NOT NULL,
    lease_until timestamptz NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now()
  )`,
  // E1: one row per agent; claim, receipt and result lock it FOR SHARE.
  `CREATE TABLE sessions (
    agent_id text PRIMARY KEY REFERENCES agents ON DELETE CASCADE,
    id text NOT NULL,
    epoch integer NOT NULL,
    assertion_counter bigint NOT NULL DEFAULT 0,
    replica_id text NOT NULL,
    process_id text NOT NULL DEFAULT '',
    state text NOT NULL CHECK (state IN ('SYNCING', 'SERVING', 'ENDED')),
    remote_address text NOT NULL DEFAULT '',
    opened_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    end_reason text NOT NULL DEFAULT ''
  )`,
  `CREATE INDEX sessions_replica ON sessions (replica_id) WHERE state <> 'ENDED'`,

  // -- deployments ------------------------------------------------------------
  `CREATE TABLE deployments (
    id text PRIMARY KEY,
    agent_id text NOT NULL REFERENCES agents,
    cluster_id text NOT NULL REFERENCES clusters,
    organisation_id text NOT NULL DEFAULT '',
    kind text NOT NULL,
    owner_id text NOT NULL,
    desired text NOT NULL CHECK (desired IN ('RUNNING', 'STOPPED', 'PAUSED', 'ABSENT')),
    generation integer NOT NULL CHECK (generation > 0),
    observed_generation integer NOT NULL DEFAULT 0,
    observed_digest text NOT NULL DEFAULT '',
    is_absent boolean NOT NULL DEFAULT false,
    drifted boolean NOT NULL DEFAULT false,
    drift_observations integer NOT NULL DEFAULT 0,
    held_reason text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE INDEX deployments_agent ON deployments (agent_id) WHERE NOT is_absent`,
  `CREATE INDEX deployments_owner ON deployments (owner_id)`,
  // E5: immutable; the bytes and their digest.
  `CREATE TABLE deployment_generations (
    deployment_id text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    generation integer NOT NULL,
    spec bytea NOT NULL,
    digest text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (deployment_id, generation)
  )`,
  `CREATE TABLE instances (
    deployment_id text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    workload text NOT NULL,
    index integer NOT NULL,
    generation integer NOT NULL,
    phase text NOT NULL,
    health text NOT NULL,
    restarts integer NOT NULL,
    exit_code integer,
    image text NOT NULL DEFAULT '',
    ports jsonb NOT NULL DEFAULT '[]',
    reason text NOT NULL DEFAULT '',
    started_at timestamptz,
    observation bigint NOT NULL,
    observed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (deployment_id, workload, index)
  )`,

  // -- commands: what never changes, what changes, what may get lost -----------
  `CREATE TABLE commands (
    id text PRIMARY KEY,
    deployment_id text NOT NULL REFERENCES deployments,
    agent_id text NOT NULL,
    cluster_id text NOT NULL,
    organisation_id text NOT NULL DEFAULT '',
    generation integer NOT NULL,
    digest text NOT NULL,
    product_publish_id text NOT NULL DEFAULT '',
    owner_kind text NOT NULL,
    owner_id text NOT NULL,
    is_removal boolean NOT NULL,
    reduces boolean NOT NULL,
    max_retries integer NOT NULL,
    run_timeout_ms integer NOT NULL,
    grace_ms integer NOT NULL,
    cancel_limit_ms integer NOT NULL,
    offline_life_ms bigint NOT NULL,
    deadline_at timestamptz,
    retry_of text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE INDEX commands_deployment ON commands (deployment_id, generation)`,
  `CREATE INDEX commands_publish ON commands (product_publish_id) WHERE product_publish_id <> ''`,
  `CREATE INDEX commands_created ON commands (created_at, id)`,
  `CREATE SEQUENCE command_sequence`,
  `CREATE TABLE command_states (
    command_id text PRIMARY KEY REFERENCES commands ON DELETE CASCADE,
    agent_id text NOT NULL,
    deployment_id text NOT NULL,
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 9),
    reduces boolean NOT NULL,
    sequence bigint NOT NULL DEFAULT nextval('command_sequence'),
    state text NOT NULL CHECK (state IN (${quoted})),
    attempt integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    bound_epoch integer,
    unbound_at timestamptz,
    ever_received boolean NOT NULL DEFAULT false,
    sessions_without_receipt integer NOT NULL DEFAULT 0,
    cancel_reason text CHECK (cancel_reason IN ('REQUESTED', 'NEWER', 'RUN_TIMEOUT')),
    due_at timestamptz,
    assigned_at timestamptz,
    received_at timestamptz,
    cancelling_at timestamptz,
    ended_at timestamptz,
    outcome_attempt integer,
    reason text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    superseded_by text NOT NULL DEFAULT '',
    late_outcome text NOT NULL DEFAULT '',
    domain_error text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now()
  ) WITH (fillfactor = 70)`,
  // E4: one open command that is not BLOCKED per deployment; one BLOCKED.
  `CREATE UNIQUE INDEX command_states_one_in_flight ON command_states (deployment_id) WHERE state IN (${open}) AND state <> 'BLOCKED'`,
  `CREATE UNIQUE INDEX command_states_one_waiting ON command_states (deployment_id) WHERE state = 'BLOCKED'`,
  `CREATE INDEX command_states_claim ON command_states (agent_id, priority, sequence) WHERE state = 'READY'`,
  `CREATE INDEX command_states_due ON command_states (due_at) WHERE state = 'RETRY_WAIT'`,
  `CREATE INDEX command_states_agent_open ON command_states (agent_id) WHERE state IN (${open})`,
  `CREATE TABLE command_progress (
    command_id text PRIMARY KEY REFERENCES commands ON DELETE CASCADE,
    attempt integer NOT NULL,
    phase text NOT NULL,
    percent smallint NOT NULL,
    message text NOT NULL,
    workloads jsonb NOT NULL DEFAULT '[]',
    updated_at timestamptz NOT NULL DEFAULT now()
  ) WITH (fillfactor = 50)`,

  // -- products ---------------------------------------------------------------
  `CREATE TABLE api_services (
    id text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    name text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation_id, name)
  )`,
  ...["routes", "backends"].map(
    (table) => `CREATE TABLE ${table} (
    id text PRIMARY KEY,
    api_service_id text NOT NULL REFERENCES api_services ON DELETE CASCADE,
    name text NOT NULL,
    spec bytea NOT NULL,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (api_service_id, name)
  )`,
  ),
  `CREATE TABLE gateways (
    id text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    name text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    gateway_class text NOT NULL,
    listeners jsonb NOT NULL,
    agent_labels jsonb NOT NULL DEFAULT '{}',
    is_default boolean NOT NULL DEFAULT false,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation_id, name)
  )`,
  `CREATE UNIQUE INDEX gateways_one_default ON gateways (organisation_id) WHERE is_default`,
  `CREATE TABLE products (
    id text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    name text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'DRAFT' CHECK (state IN ('DRAFT', 'PUBLISHED', 'DEPRECATED', 'RETIRED')),
    latest_revision integer NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation_id, name)
  )`,
  `CREATE TABLE product_api_services (
    product_id text NOT NULL REFERENCES products ON DELETE CASCADE,
    api_service_id text NOT NULL REFERENCES api_services,
    position integer NOT NULL,
    PRIMARY KEY (product_id, api_service_id)
  )`,
  `CREATE TABLE product_revisions (
    id text PRIMARY KEY,
    product_id text NOT NULL REFERENCES products ON DELETE CASCADE,
    number integer NOT NULL,
    content bytea NOT NULL,
    digest text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (product_id, number)
  )`,
  `CREATE TABLE product_publishes (
    id text PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES organisations,
    product_id text NOT NULL REFERENCES products,
    revision_id text NOT NULL REFERENCES product_revisions,
    cluster_id text NOT NULL REFERENCES clusters,
    gateway_id text NOT NULL REFERENCES gateways,
    api_services jsonb NOT NULL DEFAULT '[]',
    state text NOT NULL CHECK (state IN ('DRAFT', 'PENDING', 'DISPATCHED', 'APPLYING', 'LIVE', 'FAILED', 'SUPERSEDED', 'UNPUBLISHING', 'UNPUBLISHED')),
    reason text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    limits bytea NOT NULL DEFAULT '',
    rollback_of text NOT NULL DEFAULT '',
    superseded_by text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    live_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE INDEX product_publishes_place ON product_publishes (cluster_id, gateway_id, product_id, created_at)`,
  `CREATE INDEX product_publishes_organisation ON product_publishes (organisation_id, created_at)`,
  // At most one publish of a product at a gateway and cluster is on its way or live.
  `CREATE UNIQUE INDEX product_publishes_in_force ON product_publishes (cluster_id, gateway_id, product_id)
    WHERE state IN ('PENDING', 'DISPATCHED', 'APPLYING', 'LIVE')`,
  `CREATE TABLE publish_targets (
    product_publish_id text NOT NULL REFERENCES product_publishes ON DELETE CASCADE,
    agent_id text NOT NULL REFERENCES agents,
    deployment_id text NOT NULL REFERENCES deployments,
    generation integer NOT NULL,
    command_id text NOT NULL,
    state text NOT NULL,
    reason text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (product_publish_id, agent_id)
  )`,
  `CREATE INDEX publish_targets_deployment ON publish_targets (deployment_id)`,
  // One live data plane per gateway and agent; a later one starts after the old one's end.
  `CREATE TABLE data_planes (
    gateway_id text NOT NULL REFERENCES gateways,
    agent_id text NOT NULL REFERENCES agents,
    deployment_id text NOT NULL REFERENCES deployments,
    removing boolean NOT NULL DEFAULT false,
    PRIMARY KEY (gateway_id, agent_id, deployment_id)
  )`,
  `CREATE UNIQUE INDEX data_planes_live ON data_planes (gateway_id, agent_id) WHERE NOT removing`,
  // The routes deployment that all publishes of a product at a gateway and agent share.
  `CREATE TABLE route_attachments (
    product_id text NOT NULL REFERENCES products,
    gateway_id text NOT NULL REFERENCES gateways,
    agent_id text NOT NULL REFERENCES agents,
    deployment_id text NOT NULL REFERENCES deployments,
    data_plane_deployment_id text NOT NULL REFERENCES deployments,
    serving_publish_id text NOT NULL DEFAULT '',
    serving_revision integer NOT NULL DEFAULT 0,
    serving_generation integer NOT NULL DEFAULT 0,
    removing boolean NOT NULL DEFAULT false,
    PRIMARY KEY (deployment_id)
  )`,
  `CREATE UNIQUE INDEX route_attachments_live ON route_attachments (product_id, gateway_id, agent_id) WHERE NOT removing`,

  // -- events for watches, audit ------------------------------------------------
  // position is given after the commit by the one sequencer; null until then.
  `CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position bigint UNIQUE,
    topic text NOT NULL,
    subject_id text NOT NULL,
    organisation_id text NOT NULL DEFAULT '',
    cluster_id text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE INDEX events_unplaced ON events (id) WHERE position IS NULL`,
  `CREATE INDEX events_age ON events (created_at)`,
  `CREATE SEQUENCE event_position`,
  `CREATE TABLE audit_events (
    id text PRIMARY KEY,
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
  )`,
  `CREATE INDEX audit_events_at ON audit_events (at, id)`,
  `CREATE INDEX audit_events_resource ON audit_events (resource_id, at)`,
];
