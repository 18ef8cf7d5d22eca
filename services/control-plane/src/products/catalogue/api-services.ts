/** ApiServiceService: API services; their routes and backends are next door. */
import { create, toJson } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  type ApiService,
  ApiServiceSchema,
  ApiServiceService,
  type CreateApiServiceRequest,
  CreateApiServiceRequestSchema,
  type DeleteApiServiceRequest,
  ListApiServicesResponseSchema,
  type UpdateApiServiceRequest,
} from "@bowline/contract/products";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { audit } from "../../platform/audit-trail.ts";
import { type Caller, callerOf } from "../../platform/context.ts";
import { guardEtag } from "../../platform/etags.ts";
import { once } from "../../platform/idempotency.ts";
import { updated } from "../../platform/masks.ts";
import { transact } from "../../platform/transactions.ts";
import { backendMethods } from "./backends.ts";
import { listNamed } from "./listing.ts";
import { naming, requireName } from "./names.ts";
import type { CataloguePorts } from "./ports.ts";
import { routeMethods } from "./routes.ts";
import { apiServiceOf } from "./rows.ts";
import { findNamed } from "./scope.ts";
import { textViolations } from "./texts.ts";
import { refuseViolations } from "./validate.ts";

export function registerApiServices(router: ConnectRouter, ports: CataloguePorts): void {
  const { db } = ports;
  router.service(ApiServiceService, {
    listApiServices: async (request, context) => {
      const page = await listNamed(db, "api_services", callerOf(context).principal, request);
      return create(ListApiServicesResponseSchema, { ...page, apiServices: page.rows.map(apiServiceOf) });
    },
    getApiService: async (request, context) =>
      apiServiceOf(await findNamed(db, "api_services", callerOf(context).principal, request.id)),
    createApiService: (request, context) => createApiService(ports, callerOf(context), request),
    updateApiService: (request, context) => updateApiService(ports, callerOf(context), request),
    deleteApiService: async (request, context) => {
      await deleteApiService(ports, callerOf(context), request);
      return create(EmptySchema);
    },
    ...routeMethods(ports),
    ...backendMethods(ports),
  });
}

async function createApiService(
  ports: CataloguePorts,
  caller: Caller,
  request: CreateApiServiceRequest,
): Promise<ApiService> {
  const wanted = request.apiService ?? create(ApiServiceSchema);
  requireName(wanted.name, "api_service.name");
  refuseViolations(textViolations(wanted, "api_service"));
  const call = {
    principal: caller.principal,
    method: "CreateApiService",
    key: request.requestId,
    request,
    requestSchema: CreateApiServiceRequestSchema,
    responseSchema: ApiServiceSchema,
  };
  return naming("API service", wanted.name, () =>
    once(ports.db, call, async (work) => {
      const row = await work.tx
        .insertInto("api_services")
        .values({
          id: newId("apisvc"),
          organisation_id: caller.principal.organisationId,
          name: wanted.name,
          display_name: wanted.displayName,
          description: wanted.description,
        })
        .returningAll()
        .executeTakeFirstOrThrow();
      const service = apiServiceOf(row);
      await audit(ports.events, work, caller, {
        action: "api-service.create",
        resourceKind: "api-service",
        resourceId: row.id,
        organisationId: row.organisation_id,
        after: toJson(ApiServiceSchema, service),
      });
      return service;
    }),
  );
}

async function updateApiService(
  ports: CataloguePorts,
  caller: Caller,
  request: UpdateApiServiceRequest,
): Promise<ApiService> {
  const patch = request.apiService ?? create(ApiServiceSchema);
  return naming("API service", patch.name, () =>
    transact(ports.db, async (work) => {
      const row = await findNamed(work.tx, "api_services", caller.principal, patch.id, "update");
      guardEtag(patch.etag, row.version);
      const before = apiServiceOf(row);
      const wanted = updated({
        schema: ApiServiceSchema,
        before,
        patch,
        mask: request.updateMask,
        changeable: ["name", "display_name", "description"],
        at: "api_service",
      });
      requireName(wanted.name, "api_service.name");
      refuseViolations(textViolations(wanted, "api_service"));
      const changed = await work.tx
        .updateTable("api_services")
        .set({
          name: wanted.name,
          display_name: wanted.displayName,
          description: wanted.description,
          version: sql`version + 1`,
          updated_at: sql`now()`,
        })
        .where("id", "=", row.id)
        .returningAll()
        .executeTakeFirstOrThrow();
      const after = apiServiceOf(changed);
      await audit(ports.events, work, caller, {
        action: "api-service.update",
        resourceKind: "api-service",
        resourceId: row.id,
        organisationId: row.organisation_id,
        before: toJson(ApiServiceSchema, before),
        after: toJson(ApiServiceSchema, after),
      });
      return after;
    }),
  );
}

async function deleteApiService(
  ports: CataloguePorts,
  caller: Caller,
  request: DeleteApiServiceRequest,
): Promise<void> {
  await transact(ports.db, async (work) => {
    const row = await findNamed(work.tx, "api_services", caller.principal, request.id, "delete");
    guardEtag(request.etag, row.version);
    const user = await work.tx
      .selectFrom("product_api_services as has")
      .innerJoin("products as p", "p.id", "has.product_id")
      .select("p.name")
      .where("has.api_service_id", "=", row.id)
      .orderBy("p.name")
      .executeTakeFirst();
    if (user !== undefined)
      throw problem("API_SERVICE_IN_USE", `The product ${user.name} has the API service ${row.name}.`, {
        metadata: { product: user.name },
      });
    await work.tx.deleteFrom("api_services").where("id", "=", row.id).execute();
    await audit(ports.events, work, caller, {
      action: "api-service.delete",
      resourceKind: "api-service",
      resourceId: row.id,
      organisationId: row.organisation_id,
      before: toJson(ApiServiceSchema, apiServiceOf(row)),
    });
  });
}
