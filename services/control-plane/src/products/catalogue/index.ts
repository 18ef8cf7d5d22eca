/**
 * The catalogue: what providers offer, before it is placed anywhere. The front
 * door for the publishes of this slice.
 *
 *   products.ts, apply.ts, revisions.ts   products and their snapshots
 *   api-services.ts, parts.ts             API services, their routes and backends
 *   gateways.ts, default-gateway.ts       templates of data planes
 *   validate.ts, conflicts.ts, diff.ts    what a manifest must be, claims twice, changes
 *   scope.ts, listing.ts, rows.ts         finding, paging and showing rows
 */
import type { ConnectRouter } from "@connectrpc/connect";
import type { Caller } from "../../platform/context.ts";
import type { Work } from "../../platform/transactions.ts";
import { registerApiServices } from "./api-services.ts";
import { gatewayForPublish, type PublishableGateway } from "./default-gateway.ts";
import { registerGateways } from "./gateways.ts";
import type { CataloguePorts } from "./ports.ts";
import { registerProducts } from "./products.ts";
import { type PublishableRevision, revisionForPublish } from "./revisions.ts";

export { isPrivateUrl, privateBackends } from "./backend-urls.ts";
export { claimsMore, type RouteConflict, routeConflicts } from "./conflicts.ts";
export type { PublishableGateway } from "./default-gateway.ts";
export { diffManifests } from "./diff.ts";
export type { CataloguePorts } from "./ports.ts";
export { markPublished, type PublishableRevision } from "./revisions.ts";
export { listenersOf } from "./rows.ts";
export { manifestOf } from "./snapshot.ts";
export { type ManifestRules, validateManifest } from "./validate.ts";

export interface Catalogue {
  register: (router: ConnectRouter) => void;
  /** See revisions.ts. Locks the product's row. */
  revisionForPublish: (work: Work, caller: Caller, product: string, revision: string) => Promise<PublishableRevision>;
  /** See default-gateway.ts. Locks the gateway's row. */
  gatewayForPublish: (
    work: Work,
    caller: Caller,
    gateway: string,
    organisationId?: string,
  ) => Promise<PublishableGateway>;
}

export function createCatalogue(ports: CataloguePorts): Catalogue {
  return {
    register(router) {
      registerApiServices(router, ports);
      registerGateways(router, ports);
      registerProducts(router, ports);
    },
    revisionForPublish,
    gatewayForPublish: (work, caller, gateway, organisationId) =>
      gatewayForPublish(ports, work, caller, gateway, organisationId),
  };
}
