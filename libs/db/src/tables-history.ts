/** History by time; a part of tables.ts. */
import type { Generated } from "kysely";
import type { CommandState } from "./command-states.ts";

/** A command that has ended and whose wish a newer one has replaced. */
export interface EndedCommandsTable {
  id: string;
  deployment_id: string;
  agent_id: string;
  cluster_id: string;
  organisation_id: string;
  generation: number;
  digest: string;
  product_publish_id: string;
  owner_kind: string;
  owner_id: string;
  is_removal: boolean;
  reduces: boolean;
  max_retries: number;
  run_timeout_ms: number;
  retry_of: string;
  created_by: string;
  created_at: Date;
  priority: number;
  state: CommandState;
  attempt: number;
  failures: number;
  due_at: Date | null;
  assigned_at: Date | null;
  received_at: Date | null;
  ended_at: Date;
  outcome_attempt: number | null;
  reason: string;
  message: string;
  superseded_by: string;
  late_outcome: string;
  domain_error: string;
  /** The revision of its owner that it is of; 0: its owner has none. */
  revision: Generated<number>;
  /** The rollout of which it is a step; empty: none. */
  rollout_id: Generated<string>;
}

export interface EventFloorTable {
  singleton: boolean;
  /** Events at or below it are no longer kept. */
  position: number;
}

/** What one transaction noted for watches, until it has positions: four lists of one length. */
export interface EventSetsTable {
  id: Generated<number>;
  topics: string[];
  subjects: string[];
  organisations: string[];
  clusters: string[];
  created_at: Generated<Date>;
}
