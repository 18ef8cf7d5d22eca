/** Products, their API services, gateways and publishes; a part of tables.ts. */
import type { Generated } from "kysely";
import type { Json, JsonDefault } from "./columns.ts";

export interface ApiServicesTable {
  id: string;
  organisation_id: string;
  name: string;
  display_name: Generated<string>;
  description: Generated<string>;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface RoutesTable {
  id: string;
  api_service_id: string;
  name: string;
  spec: Buffer;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface BackendsTable {
  id: string;
  api_service_id: string;
  name: string;
  spec: Buffer;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface GatewaysTable {
  id: string;
  organisation_id: string;
  name: string;
  display_name: Generated<string>;
  gateway_class: string;
  listeners: Json;
  agent_labels: JsonDefault<Record<string, string>>;
  is_default: Generated<boolean>;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface ProductsTable {
  id: string;
  organisation_id: string;
  name: string;
  display_name: Generated<string>;
  description: Generated<string>;
  state: Generated<string>;
  latest_revision: Generated<number>;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface ProductApiServicesTable {
  product_id: string;
  api_service_id: string;
  position: number;
}

export interface ProductRevisionsTable {
  id: string;
  product_id: string;
  number: number;
  content: Buffer;
  digest: string;
  created_by: string;
  created_at: Generated<Date>;
}

export interface ProductPublishesTable {
  id: string;
  organisation_id: string;
  product_id: string;
  revision_id: string;
  cluster_id: string;
  gateway_id: string;
  api_services: JsonDefault<string[]>;
  state: string;
  reason: Generated<string>;
  message: Generated<string>;
  limits: Generated<Buffer>;
  rollback_of: Generated<string>;
  superseded_by: Generated<string>;
  created_by: string;
  version: Generated<number>;
  live_at: Generated<Date | null>;
  /** Agents that may be on their way at a time; 0: all. */
  max_parallel: Generated<number>;
  /** Where an agent fails, what was live before is published again. */
  auto_revert: Generated<boolean>;
  /** Agents that get it when others have it. */
  to_come: Generated<number>;
  /** Null: a draft, or one that was thrown away. */
  deployed_at: Generated<Date | null>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface PublishTargetsTable {
  product_publish_id: string;
  agent_id: string;
  deployment_id: string;
  generation: number;
  command_id: string;
  state: string;
  reason: Generated<string>;
  message: Generated<string>;
  updated_at: Generated<Date>;
}

export interface DataPlanesTable {
  gateway_id: string;
  agent_id: string;
  deployment_id: string;
  removing: Generated<boolean>;
}

export interface RouteAttachmentsTable {
  product_id: string;
  gateway_id: string;
  agent_id: string;
  deployment_id: string;
  data_plane_deployment_id: string;
  serving_publish_id: Generated<string>;
  serving_revision: Generated<number>;
  serving_generation: Generated<number>;
  removing: Generated<boolean>;
}
