/** Which gateway a publish goes to. */
import { create, toJson } from "@bufbuild/protobuf";
import { type Listener, ListenerSchema } from "@bowline/contract/deployments";
import { GatewaySchema } from "@bowline/contract/products";
import { newId, problem } from "@bowline/kernel";
import { audit } from "../../platform/audit-trail.ts";
import type { Caller } from "../../platform/context.ts";
import type { Tx, Work } from "../../platform/transactions.ts";
import type { CataloguePorts } from "./ports.ts";
import { gatewayOf, listenersJson, listenersOf } from "./rows.ts";
import { findNamed, type NamedRow } from "./scope.ts";

/** What a gateway has where its maker says nothing: Bowline's own proxy, on a port beside the server's 8080. */
export const defaultGatewayClass = "embedded";
export function defaultListeners(): Listener[] {
  return [create(ListenerSchema, { name: "http", protocol: "HTTP", port: 8081 })];
}

/** A gateway as a publish needs it. */
export interface PublishableGateway {
  id: string;
  name: string;
  gatewayClass: string;
  listeners: Listener[];
  agentLabels: Record<string, string>;
  organisationId: string;
}

/**
 * The gateway with this id or name; "" is the default one of `organisationId` (the caller's own where it is left out),
 * which is made if there is none. Locks its row FOR SHARE until the transaction ends: publishes to it go side by side, and a
 * change of the gateway comes before or after each. Throws NOT_FOUND, AMBIGUOUS_NAME.
 */
export async function gatewayForPublish(
  ports: Pick<CataloguePorts, "events">,
  work: Work,
  caller: Caller,
  idOrName: string,
  organisationId: string = caller.principal.organisationId,
): Promise<PublishableGateway> {
  const row =
    idOrName === ""
      ? await defaultGateway(ports, work, caller, organisationId)
      : await findNamed(work.tx, "gateways", { ...caller.principal, organisationId }, idOrName, "share");
  return {
    id: row.id,
    name: row.name,
    gatewayClass: row.gateway_class,
    listeners: listenersOf(row.listeners),
    agentLabels: row.agent_labels,
    organisationId: row.organisation_id,
  };
}

async function defaultGateway(
  ports: Pick<CataloguePorts, "events">,
  work: Work,
  caller: Caller,
  organisationId: string,
): Promise<NamedRow<"gateways">> {
  const { tx } = work;
  const known = await lockDefault(tx, organisationId);
  if (known !== undefined) return known;
  const taken = await tx
    .selectFrom("gateways")
    .select("name")
    .where("organisation_id", "=", organisationId)
    .where("name", "like", "default%")
    .execute();
  const names = new Set(taken.map((row) => row.name));
  let name = "default";
  for (let n = 2; names.has(name); n += 1) name = `default-${n}`;
  // Two first publishes at once: the second waits here for the first, and then finds its gateway.
  const made = await tx
    .insertInto("gateways")
    .values({
      id: newId("gateway"),
      organisation_id: organisationId,
      name,
      gateway_class: defaultGatewayClass,
      listeners: listenersJson(defaultListeners()),
      is_default: true,
    })
    .onConflict((conflict) => conflict.doNothing())
    .returningAll()
    .executeTakeFirst();
  if (made === undefined) {
    const theirs = await lockDefault(tx, organisationId);
    if (theirs === undefined) throw problem("UNAVAILABLE", "The default gateway is being changed. Try again.");
    return theirs;
  }
  await audit(ports.events, work, caller, {
    action: "gateway.create",
    resourceKind: "gateway",
    resourceId: made.id,
    organisationId,
    after: toJson(GatewaySchema, gatewayOf(made)),
  });
  return made;
}

async function lockDefault(tx: Tx, organisationId: string): Promise<NamedRow<"gateways"> | undefined> {
  return tx
    .selectFrom("gateways")
    .selectAll()
    .where("organisation_id", "=", organisationId)
    .where("is_default", "=", true)
    .forShare()
    .executeTakeFirst();
}
