/** The catalogue's rows as the API shows them. */
import { create, fromBinary, fromJson, type JsonValue, toBinary, toJson } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  BackendSchema as BackendSpecSchema,
  HttpRouteSchema,
  type Listener,
  ListenerSchema,
} from "@bowline/contract/deployments";
import {
  type ApiService,
  ApiServiceSchema,
  type Backend,
  BackendSchema,
  type Gateway,
  GatewaySchema,
  type Product,
  Product_State,
  ProductManifestSchema,
  ProductSchema,
  type Revision,
  RevisionSchema,
  type Route,
  RouteSchema,
} from "@bowline/contract/products";
import type { Database } from "@bowline/db";
import type { Selectable } from "kysely";
import { etagOf } from "../../platform/etags.ts";

type Row<Table extends keyof Database> = Selectable<Database[Table]>;

function stamps(row: { version: number; created_at: Date; updated_at: Date }) {
  return {
    etag: etagOf(row.version),
    createdAt: timestampFromDate(row.created_at),
    updatedAt: timestampFromDate(row.updated_at),
  };
}

export function apiServiceOf(row: Row<"api_services">): ApiService {
  return create(ApiServiceSchema, {
    id: row.id,
    name: row.name,
    displayName: row.display_name,
    description: row.description,
    ...stamps(row),
  });
}

export function routeOf(row: Row<"routes">): Route {
  return create(RouteSchema, {
    id: row.id,
    apiServiceId: row.api_service_id,
    spec: fromBinary(HttpRouteSchema, row.spec),
    ...stamps(row),
  });
}

export function backendOf(row: Row<"backends">): Backend {
  return create(BackendSchema, {
    id: row.id,
    apiServiceId: row.api_service_id,
    spec: fromBinary(BackendSpecSchema, row.spec),
    ...stamps(row),
  });
}

export function gatewayOf(row: Row<"gateways">): Gateway {
  return create(GatewaySchema, {
    id: row.id,
    name: row.name,
    displayName: row.display_name,
    gatewayClass: row.gateway_class,
    listeners: listenersOf(row.listeners),
    agentLabels: row.agent_labels,
    isDefault: row.is_default,
    ...stamps(row),
  });
}

/** Listeners out of jsonb; what a newer version wrote beside them is left out. */
export function listenersOf(stored: unknown): Listener[] {
  if (!Array.isArray(stored)) return [];
  return stored.map((listener: JsonValue) => fromJson(ListenerSchema, listener, { ignoreUnknownFields: true }));
}

/** Listeners as jsonb. */
export function listenersJson(listeners: readonly Listener[]): string {
  return JSON.stringify(listeners.map((listener) => toJson(ListenerSchema, listener)));
}

export function productOf(row: Row<"products">, apiServiceIds: readonly string[]): Product {
  return create(ProductSchema, {
    id: row.id,
    name: row.name,
    displayName: row.display_name,
    description: row.description,
    apiServiceIds: [...apiServiceIds],
    state: Product_State[row.state as keyof typeof Product_State],
    latestRevision: row.latest_revision,
    ...stamps(row),
  });
}

/** `content` is left out of lists. */
export function revisionOf(row: Omit<Row<"product_revisions">, "content"> & { content?: Buffer }): Revision {
  return create(RevisionSchema, {
    id: row.id,
    productId: row.product_id,
    number: row.number,
    digest: row.digest,
    createdBy: row.created_by,
    createdAt: timestampFromDate(row.created_at),
    ...(row.content === undefined ? {} : { content: fromBinary(ProductManifestSchema, row.content) }),
  });
}

/** A route's or backend's spec as it is stored: without fields that this build does not know. */
export function specBytes(spec: { $typeName: string }): Buffer {
  const options = { writeUnknownFields: false };
  return Buffer.from(
    spec.$typeName === HttpRouteSchema.typeName
      ? toBinary(HttpRouteSchema, spec as never, options)
      : toBinary(BackendSpecSchema, spec as never, options),
  );
}
