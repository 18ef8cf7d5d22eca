/** ApiServiceService's methods for backends. */
import { create, fromBinary, toJson } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { type Backend as BackendSpec, HttpRouteSchema } from "@bowline/contract/deployments";
import {
  type ApiServiceService,
  type Backend,
  BackendSchema,
  type CreateBackendRequest,
  CreateBackendRequestSchema,
  type DeleteBackendRequest,
  ListBackendsResponseSchema,
  type UpdateBackendRequest,
} from "@bowline/contract/products";
import { problem } from "@bowline/kernel";
import { audit } from "../../platform/audit-trail.ts";
import { type Caller, callerOf } from "../../platform/context.ts";
import { guardEtag } from "../../platform/etags.ts";
import { once } from "../../platform/idempotency.ts";
import { updated } from "../../platform/masks.ts";
import { type Tx, transact } from "../../platform/transactions.ts";
import { listParts } from "./listing.ts";
import { findPart, insertPart, type PartRow, updatePart } from "./parts.ts";
import type { CataloguePorts } from "./ports.ts";
import { backendOf } from "./rows.ts";
import { findNamed } from "./scope.ts";
import { refuseViolations, validateBackend } from "./validate.ts";

type BackendMethods = Pick<
  ServiceImpl<typeof ApiServiceService>,
  "listBackends" | "getBackend" | "createBackend" | "updateBackend" | "deleteBackend"
>;

export function backendMethods(ports: CataloguePorts): BackendMethods {
  const { db } = ports;
  return {
    listBackends: async (request, context) => {
      const service = await findNamed(db, "api_services", callerOf(context).principal, request.apiServiceId);
      const page = await listParts(db, "backends", service.id, request);
      return create(ListBackendsResponseSchema, { ...page, backends: page.rows.map(backendOf) });
    },
    getBackend: async (request, context) => {
      const service = await findNamed(db, "api_services", callerOf(context).principal, request.apiServiceId);
      return backendOf(await findPart(db, "backends", service, request.id));
    },
    createBackend: (request, context) => createBackend(ports, callerOf(context), request),
    updateBackend: (request, context) => updateBackend(ports, callerOf(context), request),
    deleteBackend: async (request, context) => {
      await deleteBackend(ports, callerOf(context), request);
      return create(EmptySchema);
    },
  };
}

async function createBackend(ports: CataloguePorts, caller: Caller, request: CreateBackendRequest): Promise<Backend> {
  const call = {
    principal: caller.principal,
    method: "CreateBackend",
    key: request.requestId,
    request,
    requestSchema: CreateBackendRequestSchema,
    responseSchema: BackendSchema,
  };
  return once(ports.db, call, async (work) => {
    const service = await findNamed(work.tx, "api_services", caller.principal, request.apiServiceId, "update");
    const backend = backendOf(await insertPart(work.tx, "backends", service.id, checked(request.backend?.spec)));
    await audit(ports.events, work, caller, {
      action: "backend.create",
      resourceKind: "backend",
      resourceId: backend.id,
      organisationId: service.organisation_id,
      after: toJson(BackendSchema, backend),
    });
    return backend;
  });
}

async function updateBackend(ports: CataloguePorts, caller: Caller, request: UpdateBackendRequest): Promise<Backend> {
  const patch = request.backend ?? create(BackendSchema);
  return transact(ports.db, async (work) => {
    const service = await findNamed(work.tx, "api_services", caller.principal, request.apiServiceId, "update");
    const row = await findPart(work.tx, "backends", service, patch.id);
    guardEtag(patch.etag, row.version);
    const before = backendOf(row);
    const wanted = updated({
      schema: BackendSchema,
      before,
      patch,
      mask: request.updateMask,
      changeable: ["spec"],
      at: "backend",
    });
    const spec = checked(wanted.spec);
    // Routes refer to backends by name.
    if (spec.name !== row.name) await refuseInUse(work.tx, row);
    const after = backendOf(await updatePart(work.tx, "backends", row.id, spec));
    await audit(ports.events, work, caller, {
      action: "backend.update",
      resourceKind: "backend",
      resourceId: row.id,
      organisationId: service.organisation_id,
      before: toJson(BackendSchema, before),
      after: toJson(BackendSchema, after),
    });
    return after;
  });
}

async function deleteBackend(ports: CataloguePorts, caller: Caller, request: DeleteBackendRequest): Promise<void> {
  await transact(ports.db, async (work) => {
    const service = await findNamed(work.tx, "api_services", caller.principal, request.apiServiceId, "update");
    const row = await findPart(work.tx, "backends", service, request.id);
    guardEtag(request.etag, row.version);
    await refuseInUse(work.tx, row);
    await work.tx.deleteFrom("backends").where("id", "=", row.id).execute();
    await audit(ports.events, work, caller, {
      action: "backend.delete",
      resourceKind: "backend",
      resourceId: row.id,
      organisationId: service.organisation_id,
      before: toJson(BackendSchema, backendOf(row)),
    });
  });
}

/** Throws INVALID_ARGUMENT. */
function checked(spec: BackendSpec | undefined): BackendSpec {
  if (spec === undefined) {
    const violation = { field: "backend.spec", description: "A backend needs a spec." };
    throw problem("INVALID_ARGUMENT", violation.description, { violations: [violation] });
  }
  refuseViolations(validateBackend(spec, "backend.spec"));
  return spec;
}

/** Throws BACKEND_IN_USE where a route sends or mirrors to the backend. */
async function refuseInUse(tx: Tx, backend: PartRow): Promise<void> {
  const rows = await tx
    .selectFrom("routes")
    .select(["name", "spec"])
    .where("api_service_id", "=", backend.api_service_id)
    .orderBy("name")
    .execute();
  const user = rows.find((row) => {
    const route = fromBinary(HttpRouteSchema, row.spec);
    return (
      route.backends.some((ref) => ref.backend === backend.name) ||
      route.filters.some(({ kind }) => kind.case === "mirror" && kind.value.backend === backend.name)
    );
  });
  if (user === undefined) return;
  throw problem("BACKEND_IN_USE", `The route ${user.name} uses the backend ${backend.name}.`, {
    metadata: { route: user.name },
  });
}
