/**
 * The tables as kysely sees them. The migrations are the truth; a test compares
 * the two over a real database. Those of a room of their own are beside this file,
 * as tables-<room>.ts; which tables there are is said at the end of this one. Long
 * because it lists each column of the tables that all rooms join.
 */
import type { ColumnType, Generated } from "kysely";
import type { Json, JsonDefault, JsonOrNull } from "./columns.ts";
import type { CommandState } from "./command-states.ts";
import type { EndedCommandsTable, EventFloorTable, EventSetsTable } from "./tables-history.ts";
import type {
  ApiServicesTable,
  BackendsTable,
  DataPlanesTable,
  GatewaysTable,
  ProductApiServicesTable,
  ProductPublishesTable,
  ProductRevisionsTable,
  ProductsTable,
  PublishTargetsTable,
  RouteAttachmentsTable,
  RoutesTable,
} from "./tables-products.ts";
import type { RegistriesTable, SecretsTable, SecretVersionsTable } from "./tables-secrets.ts";
import type { StackRevisionsTable, StackRolloutsTable, StacksTable, StackTargetsTable } from "./tables-stacks.ts";

export interface InstallationTable {
  singleton: Generated<boolean>;
  id: string;
  incarnation: Generated<number>;
  created_at: Generated<Date>;
  /** Set: nothing is dispatched until an operator confirms a restore. */
  dispatch_held_at: Generated<Date | null>;
  /** Builds before this schema do not work on the present one; raised by the migration that ends it. */
  oldest_schema: Generated<string>;
}

export interface OrganisationsTable {
  id: string;
  name: string;
  display_name: Generated<string>;
  version: Generated<number>;
  created_at: Generated<Date>;
}

export interface ServiceAccountsTable {
  id: string;
  organisation_id: string;
  name: string;
  role: string;
  secret_hash: Buffer;
  expires_at: Generated<Date | null>;
  revoked_at: Generated<Date | null>;
  last_used_at: Generated<Date | null>;
  created_by: string;
  created_at: Generated<Date>;
}

export interface SigningKeysTable {
  id: string;
  public_jwk: Json;
  private_encrypted: Buffer;
  usable_from: Date;
  usable_until: Date;
  created_at: Generated<Date>;
}

export interface IdempotencyKeysTable {
  principal_id: string;
  method: string;
  key: string;
  request_hash: Buffer;
  response: Buffer;
  created_at: Generated<Date>;
}

export interface ClustersTable {
  id: string;
  name: string;
  display_name: Generated<string>;
  runtime: string;
  region: Generated<string>;
  cloud_provider: Generated<string>;
  labels: JsonDefault<Record<string, string>>;
  capabilities: JsonDefault<string[]>;
  is_default: Generated<boolean>;
  is_active: Generated<boolean>;
  policy: JsonDefault;
  deleting: Generated<boolean>;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface ClusterGrantsTable {
  cluster_id: string;
  organisation_id: string;
  created_at: Generated<Date>;
}

export interface RegistrationTokensTable {
  id: string;
  cluster_id: string;
  secret_hash: Buffer;
  max_uses: number;
  uses: Generated<number>;
  rekey_agent_id: Generated<string | null>;
  expires_at: Date;
  revoked_at: Generated<Date | null>;
  created_by: string;
  created_at: Generated<Date>;
}

export interface AgentsTable {
  id: string;
  cluster_id: string;
  name: string;
  hostname: Generated<string>;
  labels: JsonDefault<Record<string, string>>;
  reported_labels: JsonDefault<Record<string, string>>;
  capacity_limit: Generated<number>;
  state: Generated<string>;
  cordoned: Generated<boolean>;
  runtime: string;
  runtime_identity: string;
  runtime_version: Generated<string>;
  runtime_problem: Generated<string>;
  capabilities: JsonDefault<string[]>;
  agent_version: Generated<string>;
  signing_key: Json;
  signing_thumbprint: string;
  sealing_key: Json;
  journal_id: Generated<string>;
  journal_counter: Generated<number>;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
  conflict: Generated<string>;
  conflict_runtime_identity: Generated<string>;
  decision: Generated<string>;
  /** `sha256:…`; empty: bound to none. */
  client_certificate: Generated<string>;
}

export interface AgentDisputesTable {
  agent_id: string;
  deployment_id: string;
  why: string;
  agent_generation: number;
  agent_digest: string;
  runs: boolean;
  seen_at: Generated<Date>;
  settled_at: Generated<Date | null>;
}

export interface DisplacedProcessesTable {
  agent_id: string;
  process_id: string;
  displaced_at: Generated<Date>;
}

export interface ReplacedKeysTable {
  agent_id: string;
  thumbprint: string;
  signing_key: Json;
  because: string;
  replaced_at: Generated<Date>;
}

export interface RegistrationTokenUsesTable {
  token_id: string;
  agent_id: string;
  thumbprint: string;
  used_at: Generated<Date>;
}

export interface AgentSeenTable {
  agent_id: string;
  last_seen_at: Date;
  running: Generated<number>;
  instance_limit: Generated<number>;
  load_millis: Generated<number>;
  memory_millis: Generated<number>;
  disk_free_bytes: Generated<number>;
}

export interface ReplicasTable {
  id: string;
  address: Generated<string>;
  server_version: string;
  lease_until: Date;
  started_at: Generated<Date>;
}

/** Tunnels that wait for their agent or are open; gone with their end, or their replica's. */
export interface TunnelsTable {
  id: string;
  agent_id: string;
  /** The replica at which somebody waits for it. */
  replica_id: string;
  /** Where other replicas reach that one; empty: nowhere. */
  home_url: string;
  /** `logs` or `exec`. */
  purpose: string;
  principal_id: string;
  created_at: Generated<Date>;
}

export interface SessionsTable {
  agent_id: string;
  id: string;
  epoch: number;
  assertion_counter: Generated<number>;
  replica_id: string;
  process_id: Generated<string>;
  state: string;
  remote_address: Generated<string>;
  opened_at: Generated<Date>;
  ended_at: Generated<Date | null>;
  end_reason: Generated<string>;
  transport: Generated<string>;
  journal_whole: Generated<boolean>;
  poll_number: Generated<number>;
}

export interface DeploymentsTable {
  id: string;
  agent_id: string;
  cluster_id: string;
  organisation_id: Generated<string>;
  kind: string;
  owner_id: string;
  desired: string;
  generation: number;
  observed_generation: Generated<number>;
  observed_digest: Generated<string>;
  is_absent: Generated<boolean>;
  drifted: Generated<boolean>;
  drift_observations: Generated<number>;
  held_reason: Generated<string>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface DeploymentGenerationsTable {
  deployment_id: string;
  generation: number;
  spec: Buffer;
  digest: string;
  created_at: Generated<Date>;
  secrets: JsonDefault<Record<string, string>>;
  /** Hosts of the registries that its images are of. */
  registries: JsonDefault<string[]>;
}

/** What an agent carries that belongs to no known deployment. */
export interface StraysTable {
  agent_id: string;
  deployment_id: string;
  epoch: number;
  generation: number;
  /** One line each, for people. */
  instances: ColumnType<string[], string, string>;
  observed_at: Generated<Date>;
}

export interface InstancesTable {
  deployment_id: string;
  workload: string;
  index: number;
  generation: number;
  phase: string;
  health: string;
  restarts: number;
  exit_code: Generated<number | null>;
  image: Generated<string>;
  ports: JsonDefault;
  reason: Generated<string>;
  started_at: Generated<Date | null>;
  observation: number;
  observed_at: Generated<Date>;
  /** When it was first seen as it was started last, by the database's clock. */
  renewed_at: Generated<Date>;
}

export interface CommandsTable {
  id: string;
  deployment_id: string;
  agent_id: string;
  cluster_id: string;
  organisation_id: Generated<string>;
  generation: number;
  digest: string;
  product_publish_id: Generated<string>;
  owner_kind: string;
  owner_id: string;
  is_removal: boolean;
  reduces: boolean;
  max_retries: number;
  run_timeout_ms: number;
  grace_ms: number;
  cancel_limit_ms: number;
  offline_life_ms: number;
  deadline_at: Generated<Date | null>;
  retry_of: Generated<string>;
  created_by: string;
  created_at: Generated<Date>;
  trace_parent: Generated<string>;
  /** The revision of its owner that it is of; 0: its owner has none. */
  revision: Generated<number>;
  /** The rollout of which it is a step; empty: none. */
  rollout_id: Generated<string>;
}

export interface CommandStatesTable {
  command_id: string;
  agent_id: string;
  deployment_id: string;
  priority: number;
  reduces: boolean;
  sequence: Generated<number>;
  state: CommandState;
  attempt: Generated<number>;
  failures: Generated<number>;
  bound_epoch: Generated<number | null>;
  unbound_at: Generated<Date | null>;
  ever_received: Generated<boolean>;
  sessions_without_receipt: Generated<number>;
  cancel_reason: Generated<string | null>;
  due_at: Generated<Date | null>;
  assigned_at: Generated<Date | null>;
  received_at: Generated<Date | null>;
  cancelling_at: Generated<Date | null>;
  ended_at: Generated<Date | null>;
  outcome_attempt: Generated<number | null>;
  reason: Generated<string>;
  message: Generated<string>;
  superseded_by: Generated<string>;
  late_outcome: Generated<string>;
  domain_error: Generated<string>;
  updated_at: Generated<Date>;
}

export interface CommandProgressTable {
  command_id: string;
  attempt: number;
  phase: string;
  percent: number;
  message: string;
  workloads: JsonDefault;
  updated_at: Generated<Date>;
}

export interface EventsTable {
  id: Generated<number>;
  position: Generated<number | null>;
  topic: string;
  subject_id: string;
  organisation_id: Generated<string>;
  cluster_id: Generated<string>;
  created_at: Generated<Date>;
}

export interface AuditEventsTable {
  id: string;
  at: Generated<Date>;
  principal_id: string;
  principal: string;
  organisation_id: Generated<string>;
  action: string;
  resource_kind: string;
  resource_id: string;
  before: JsonOrNull;
  after: JsonOrNull;
  remote_address: Generated<string>;
  request_id: Generated<string>;
  outcome: Generated<string>;
}

export interface Database {
  installation: InstallationTable;
  organisations: OrganisationsTable;
  service_accounts: ServiceAccountsTable;
  signing_keys: SigningKeysTable;
  idempotency_keys: IdempotencyKeysTable;
  clusters: ClustersTable;
  cluster_grants: ClusterGrantsTable;
  registration_tokens: RegistrationTokensTable;
  agents: AgentsTable;
  registration_token_uses: RegistrationTokenUsesTable;
  agent_seen: AgentSeenTable;
  replicas: ReplicasTable;
  sessions: SessionsTable;
  tunnels: TunnelsTable;
  displaced_processes: DisplacedProcessesTable;
  replaced_keys: ReplacedKeysTable;
  agent_disputes: AgentDisputesTable;
  deployments: DeploymentsTable;
  deployment_generations: DeploymentGenerationsTable;
  registries: RegistriesTable;
  secrets: SecretsTable;
  secret_versions: SecretVersionsTable;
  instances: InstancesTable;
  strays: StraysTable;
  commands: CommandsTable;
  command_states: CommandStatesTable;
  command_progress: CommandProgressTable;
  ended_commands: EndedCommandsTable;
  api_services: ApiServicesTable;
  routes: RoutesTable;
  backends: BackendsTable;
  gateways: GatewaysTable;
  products: ProductsTable;
  product_api_services: ProductApiServicesTable;
  product_revisions: ProductRevisionsTable;
  product_publishes: ProductPublishesTable;
  publish_targets: PublishTargetsTable;
  data_planes: DataPlanesTable;
  route_attachments: RouteAttachmentsTable;
  stacks: StacksTable;
  stack_revisions: StackRevisionsTable;
  stack_targets: StackTargetsTable;
  stack_rollouts: StackRolloutsTable;
  events: EventsTable;
  event_floor: EventFloorTable;
  event_sets: EventSetsTable;
  audit_events: AuditEventsTable;
}
