/** Stacks and their rollouts; a part of tables.ts. */
import type { Generated } from "kysely";
import type { Json, JsonDefault } from "./columns.ts";

type WaitingServices = { service: string; lacks: { capability: string; path: string }[] }[];

export interface StacksTable {
  id: string;
  organisation_id: string;
  name: string;
  cluster_id: string;
  /** RUNNING, STOPPED or ABSENT. */
  desired: Generated<string>;
  state: Generated<string>;
  reason: Generated<string>;
  message: Generated<string>;
  /** The revision that is wanted now. */
  revision: number;
  /** The last one whose rollout succeeded; 0: none. */
  stable_revision: Generated<number>;
  /** By service: what makes its instances other ones though nothing else changed. */
  restart_stamps: JsonDefault<Record<string, string>>;
  /** Restart stamps and values of secrets of the stable revision, as it runs. */
  stable_stamps: JsonDefault<Record<string, string>>;
  stable_secrets: JsonDefault<Record<string, string>>;
  /** Services whose live workload is the green one. */
  colours: JsonDefault<Record<string, "green">>;
  /** A RolloutPolicy; empty: the defaults. */
  policy: Generated<Buffer>;
  /** CommandLimits; empty: the defaults. */
  limits: Generated<Buffer>;
  /** Services of which not all instances found an agent, and what the agents lack. */
  waits: JsonDefault<WaitingServices>;
  /** The newest rollout. */
  rollout_id: Generated<string>;
  version: Generated<number>;
  created_by: string;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface StackRevisionsTable {
  stack_id: string;
  number: number;
  /** The Compose model, without contents of secrets. */
  model: Json;
  normalised: string;
  digest: string;
  stable_at: Generated<Date | null>;
  created_by: string;
  created_at: Generated<Date>;
}

/** What a stack has, or is to have, at one agent. */
export interface StackTargetsTable {
  stack_id: string;
  agent_id: string;
  deployment_id: string;
  /** 0: nothing was enqueued yet. */
  generation: Generated<number>;
  /** The revision that this generation is of. */
  revision: Generated<number>;
  /** Instances by service, as the placement chose; empty: nothing is to be here. */
  wanted: JsonDefault<Record<string, number>>;
  /** `wanted` when a rollout succeeded last; empty: it had nothing then. */
  stable_wanted: JsonDefault<Record<string, number>>;
  /** Of the spec of this generation, without id, generation and gates. */
  spec_digest: Generated<string>;
  state: Generated<string>;
  command_id: Generated<string>;
  /** The rollout that enqueued this generation, in which phase, and when. */
  rollout_id: Generated<string>;
  begun_phase: Generated<string>;
  begun_at: Generated<Date>;
  reason: Generated<string>;
  message: Generated<string>;
  /** Null: not done, or not healthy since. */
  healthy_since: Generated<Date | null>;
  /** Workloads of this generation that have a health check. */
  checked: JsonDefault<string[]>;
  /** The most instances that were started since it began and healthy at one time. */
  healthy_instances: Generated<number>;
  updated_at: Generated<Date>;
}

export interface StackRolloutsTable {
  id: string;
  stack_id: string;
  from_revision: number;
  to_revision: number;
  cause: string;
  state: Generated<string>;
  reason: Generated<string>;
  message: Generated<string>;
  policy: Buffer;
  /** Which value of each secret it brings, by name: `<secret id>/<version>`. */
  secrets: JsonDefault<Record<string, string>>;
  /** UPDATING, PREPARING, CANARIES or SWITCHING. */
  phase: Generated<string>;
  /** Services that run side by side in it. */
  side_by_side: JsonDefault<string[]>;
  /** Colours when it has succeeded. */
  colours: JsonDefault<Record<string, "green">>;
  promoted: Generated<boolean>;
  /** All is done in this phase, and it waits: for a promotion, or until the old goes. */
  at_rest: Generated<boolean>;
  /** After a switch: until when the old is kept. */
  keep_until: Generated<Date | null>;
  done: Generated<number>;
  total: Generated<number>;
  /** From here on the progress deadline counts. */
  progress_at: Generated<Date>;
  /** When it is to be looked at; null: when something happens. */
  due_at: Generated<Date | null>;
  followed_by: Generated<string>;
  created_by: string;
  created_at: Generated<Date>;
  ended_at: Generated<Date | null>;
}
