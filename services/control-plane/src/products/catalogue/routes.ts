/** ApiServiceService's methods for routes. */
import { create, toJson } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { HttpRoute } from "@bowline/contract/deployments";
import {
  type ApiServiceService,
  type CreateRouteRequest,
  CreateRouteRequestSchema,
  type DeleteRouteRequest,
  ListRoutesResponseSchema,
  type Route,
  RouteSchema,
  type UpdateRouteRequest,
} from "@bowline/contract/products";
import { problem } from "@bowline/kernel";
import { audit } from "../../platform/audit-trail.ts";
import { type Caller, callerOf } from "../../platform/context.ts";
import { guardEtag } from "../../platform/etags.ts";
import { once } from "../../platform/idempotency.ts";
import { updated } from "../../platform/masks.ts";
import { type Tx, transact } from "../../platform/transactions.ts";
import { listParts } from "./listing.ts";
import { findPart, insertPart, namesOf, updatePart } from "./parts.ts";
import type { CataloguePorts } from "./ports.ts";
import { routeOf } from "./rows.ts";
import { findNamed } from "./scope.ts";
import { refuseViolations, validateRoute } from "./validate.ts";

type RouteMethods = Pick<
  ServiceImpl<typeof ApiServiceService>,
  "listRoutes" | "getRoute" | "createRoute" | "updateRoute" | "deleteRoute"
>;

export function routeMethods(ports: CataloguePorts): RouteMethods {
  const { db } = ports;
  return {
    listRoutes: async (request, context) => {
      const service = await findNamed(db, "api_services", callerOf(context).principal, request.apiServiceId);
      const page = await listParts(db, "routes", service.id, request);
      return create(ListRoutesResponseSchema, { ...page, routes: page.rows.map(routeOf) });
    },
    getRoute: async (request, context) => {
      const service = await findNamed(db, "api_services", callerOf(context).principal, request.apiServiceId);
      return routeOf(await findPart(db, "routes", service, request.id));
    },
    createRoute: (request, context) => createRoute(ports, callerOf(context), request),
    updateRoute: (request, context) => updateRoute(ports, callerOf(context), request),
    deleteRoute: async (request, context) => {
      await deleteRoute(ports, callerOf(context), request);
      return create(EmptySchema);
    },
  };
}

async function createRoute(ports: CataloguePorts, caller: Caller, request: CreateRouteRequest): Promise<Route> {
  const call = {
    principal: caller.principal,
    method: "CreateRoute",
    key: request.requestId,
    request,
    requestSchema: CreateRouteRequestSchema,
    responseSchema: RouteSchema,
  };
  return once(ports.db, call, async (work) => {
    const service = await findNamed(work.tx, "api_services", caller.principal, request.apiServiceId, "update");
    const spec = await checked(work.tx, service.id, request.route?.spec);
    const route = routeOf(await insertPart(work.tx, "routes", service.id, spec));
    await audit(ports.events, work, caller, {
      action: "route.create",
      resourceKind: "route",
      resourceId: route.id,
      organisationId: service.organisation_id,
      after: toJson(RouteSchema, route),
    });
    return route;
  });
}

async function updateRoute(ports: CataloguePorts, caller: Caller, request: UpdateRouteRequest): Promise<Route> {
  const patch = request.route ?? create(RouteSchema);
  return transact(ports.db, async (work) => {
    const service = await findNamed(work.tx, "api_services", caller.principal, request.apiServiceId, "update");
    const row = await findPart(work.tx, "routes", service, patch.id);
    guardEtag(patch.etag, row.version);
    const before = routeOf(row);
    const wanted = updated({
      schema: RouteSchema,
      before,
      patch,
      mask: request.updateMask,
      changeable: ["spec"],
      at: "route",
    });
    const spec = await checked(work.tx, service.id, wanted.spec);
    const after = routeOf(await updatePart(work.tx, "routes", row.id, spec));
    await audit(ports.events, work, caller, {
      action: "route.update",
      resourceKind: "route",
      resourceId: row.id,
      organisationId: service.organisation_id,
      before: toJson(RouteSchema, before),
      after: toJson(RouteSchema, after),
    });
    return after;
  });
}

async function deleteRoute(ports: CataloguePorts, caller: Caller, request: DeleteRouteRequest): Promise<void> {
  await transact(ports.db, async (work) => {
    const service = await findNamed(work.tx, "api_services", caller.principal, request.apiServiceId, "update");
    const row = await findPart(work.tx, "routes", service, request.id);
    guardEtag(request.etag, row.version);
    await work.tx.deleteFrom("routes").where("id", "=", row.id).execute();
    await audit(ports.events, work, caller, {
      action: "route.delete",
      resourceKind: "route",
      resourceId: row.id,
      organisationId: service.organisation_id,
      before: toJson(RouteSchema, routeOf(row)),
    });
  });
}

/** The spec, if it is one that this API service can have. Throws INVALID_ARGUMENT. */
async function checked(tx: Tx, apiServiceId: string, spec: HttpRoute | undefined): Promise<HttpRoute> {
  if (spec === undefined) {
    const violation = { field: "route.spec", description: "A route needs a spec." };
    throw problem("INVALID_ARGUMENT", violation.description, { violations: [violation] });
  }
  refuseViolations(validateRoute(spec, await namesOf(tx, "backends", apiServiceId), "route.spec"));
  return spec;
}
