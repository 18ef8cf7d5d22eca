/**
 * GatewayService: templates of data planes.
 *
 * G1: an organisation has at most one default gateway; a new one takes the place of the old.
 * G2: what data planes are made of changes them in the same transaction (ports.gatewayChanged).
 */
import { create, equals, toJson } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import { ListenerSchema } from "@bowline/contract/deployments";
import {
  type CreateGatewayRequest,
  CreateGatewayRequestSchema,
  type DeleteGatewayRequest,
  type Gateway,
  GatewaySchema,
  GatewayService,
  ListGatewaysResponseSchema,
  type UpdateGatewayRequest,
} from "@bowline/contract/products";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { audit } from "../../platform/audit-trail.ts";
import { type Caller, callerOf } from "../../platform/context.ts";
import { guardEtag } from "../../platform/etags.ts";
import { once } from "../../platform/idempotency.ts";
import { updated } from "../../platform/masks.ts";
import { type Tx, transact } from "../../platform/transactions.ts";
import { defaultGatewayClass, defaultListeners } from "./default-gateway.ts";
import { gatewayViolations } from "./gateway-rules.ts";
import { forgetPublishes, publishInForce } from "./in-force.ts";
import { listNamed } from "./listing.ts";
import { naming, repeated, requireName } from "./names.ts";
import type { CataloguePorts } from "./ports.ts";
import { gatewayOf, listenersJson } from "./rows.ts";
import { findNamed } from "./scope.ts";
import { refuseViolations } from "./validate.ts";

export function registerGateways(router: ConnectRouter, ports: CataloguePorts): void {
  const { db } = ports;
  router.service(GatewayService, {
    listGateways: async (request, context) => {
      const page = await listNamed(db, "gateways", callerOf(context).principal, request);
      return create(ListGatewaysResponseSchema, { ...page, gateways: page.rows.map(gatewayOf) });
    },
    getGateway: async (request, context) =>
      gatewayOf(await findNamed(db, "gateways", callerOf(context).principal, request.id)),
    createGateway: (request, context) => createGateway(ports, callerOf(context), request),
    updateGateway: (request, context) => updateGateway(ports, callerOf(context), request),
    deleteGateway: async (request, context) => {
      await deleteGateway(ports, callerOf(context), request);
      return create(EmptySchema);
    },
  });
}

async function createGateway(ports: CataloguePorts, caller: Caller, request: CreateGatewayRequest): Promise<Gateway> {
  const wanted = request.gateway ?? create(GatewaySchema);
  requireName(wanted.name, "gateway.name");
  const listeners = wanted.listeners.length === 0 ? defaultListeners() : wanted.listeners;
  refuseViolations(gatewayViolations({ ...wanted, listeners }));
  const { organisationId } = caller.principal;
  const call = {
    principal: caller.principal,
    method: "CreateGateway",
    key: request.requestId,
    request,
    requestSchema: CreateGatewayRequestSchema,
    responseSchema: GatewaySchema,
  };
  return repeated("gateways_one_default", () =>
    naming("gateway", wanted.name, () =>
      once(ports.db, call, async (work) => {
        if (wanted.isDefault) await noDefault(work.tx, organisationId);
        const row = await work.tx
          .insertInto("gateways")
          .values({
            id: newId("gateway"),
            organisation_id: organisationId,
            name: wanted.name,
            display_name: wanted.displayName,
            gateway_class: wanted.gatewayClass === "" ? defaultGatewayClass : wanted.gatewayClass,
            listeners: listenersJson(listeners),
            agent_labels: JSON.stringify(wanted.agentLabels),
            is_default: wanted.isDefault,
          })
          .returningAll()
          .executeTakeFirstOrThrow();
        const gateway = gatewayOf(row);
        await audit(ports.events, work, caller, {
          action: "gateway.create",
          resourceKind: "gateway",
          resourceId: row.id,
          organisationId,
          after: toJson(GatewaySchema, gateway),
        });
        return gateway;
      }),
    ),
  );
}

async function updateGateway(ports: CataloguePorts, caller: Caller, request: UpdateGatewayRequest): Promise<Gateway> {
  const patch = request.gateway ?? create(GatewaySchema);
  return repeated("gateways_one_default", () =>
    naming("gateway", patch.name, () =>
      transact(ports.db, async (work) => {
        const row = await findNamed(work.tx, "gateways", caller.principal, patch.id, "update");
        guardEtag(patch.etag, row.version);
        const before = gatewayOf(row);
        const wanted = updated({
          schema: GatewaySchema,
          before,
          patch,
          mask: request.updateMask,
          changeable: ["name", "display_name", "gateway_class", "listeners", "agent_labels", "is_default"],
          at: "gateway",
        });
        requireName(wanted.name, "gateway.name");
        refuseViolations(gatewayViolations(wanted, before));
        if (wanted.isDefault && !before.isDefault) await noDefault(work.tx, row.organisation_id);
        const changed = await work.tx
          .updateTable("gateways")
          .set({
            name: wanted.name,
            display_name: wanted.displayName,
            listeners: listenersJson(wanted.listeners),
            agent_labels: JSON.stringify(wanted.agentLabels),
            is_default: wanted.isDefault,
            version: sql`version + 1`,
            updated_at: sql`now()`,
          })
          .where("id", "=", row.id)
          .returningAll()
          .executeTakeFirstOrThrow();
        const after = gatewayOf(changed);
        await audit(ports.events, work, caller, {
          action: "gateway.update",
          resourceKind: "gateway",
          resourceId: row.id,
          organisationId: row.organisation_id,
          before: toJson(GatewaySchema, before),
          after: toJson(GatewaySchema, after),
        });
        if (shapes(before, after)) await ports.gatewayChanged(work, row.id); // G2
        return after;
      }),
    ),
  );
}

/** Whether what changed is something that data planes are made of, or that decides where they are. */
function shapes(before: Gateway, after: Gateway): boolean {
  const sameListeners =
    before.listeners.length === after.listeners.length &&
    before.listeners.every((listener, l) => {
      const other = after.listeners[l];
      return other !== undefined && equals(ListenerSchema, listener, other);
    });
  const labels = ({ agentLabels }: Gateway) =>
    JSON.stringify(Object.entries(agentLabels).sort(([a], [b]) => (a < b ? -1 : 1)));
  return !sameListeners || labels(before) !== labels(after) || before.name !== after.name;
}

async function deleteGateway(ports: CataloguePorts, caller: Caller, request: DeleteGatewayRequest): Promise<void> {
  await transact(ports.db, async (work) => {
    const row = await findNamed(work.tx, "gateways", caller.principal, request.id, "delete");
    guardEtag(request.etag, row.version);
    const of = { column: "gateway_id", id: row.id } as const;
    const publish = await publishInForce(work.tx, of);
    if (publish !== undefined)
      throw problem("GATEWAY_IN_USE", `A publish is on the gateway ${row.name}; unpublish it first.`, {
        metadata: { publish: publish.id, state: publish.state },
      });
    const planes = await work.tx
      .selectFrom("data_planes")
      .select("removing")
      .where("gateway_id", "=", row.id)
      .execute();
    if (planes.some((plane) => !plane.removing))
      throw problem("GATEWAY_IN_USE", `The gateway ${row.name} still has a data plane.`);
    await forgetPublishes(work.tx, of);
    await work.tx.deleteFrom("data_planes").where("gateway_id", "=", row.id).execute();
    await work.tx.deleteFrom("gateways").where("id", "=", row.id).execute();
    await audit(ports.events, work, caller, {
      action: "gateway.delete",
      resourceKind: "gateway",
      resourceId: row.id,
      organisationId: row.organisation_id,
      before: toJson(GatewaySchema, gatewayOf(row)),
    });
  });
}

/** Takes the default away from the gateway that has it (G1). */
async function noDefault(tx: Tx, organisationId: string): Promise<void> {
  await tx
    .updateTable("gateways")
    .set({ is_default: false, version: sql`version + 1`, updated_at: sql`now()` })
    .where("organisation_id", "=", organisationId)
    .where("is_default", "=", true)
    .execute();
}
