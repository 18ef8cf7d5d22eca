/** What refuses a publish before anything is enqueued. */
import { fromBinary } from "@bufbuild/protobuf";
import { type ProductManifest, ProductManifestSchema } from "@bowline/contract/products";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";
import { servedServices } from "./compile.ts";
import type { PublishPorts } from "./publish-ports.ts";
import { hasNewer, inForceStates } from "./publish-rows.ts";

/** Names of the API services that were asked for by name or id, each once; all where none was. Throws INVALID_ARGUMENT. */
export async function namedServices(
  tx: Tx,
  content: ProductManifest,
  organisationId: string,
  asked: readonly string[],
): Promise<string[]> {
  if (asked.length === 0) return content.apiServices.map((service) => service.name);
  const rows = await tx
    .selectFrom("api_services")
    .select(["id", "name"])
    .where("organisation_id", "=", organisationId)
    .where("id", "in", [...asked])
    .execute();
  const nameOf = new Map(rows.map((row) => [row.id, row.name]));
  const names = asked.map((idOrName) => nameOf.get(idOrName) ?? idOrName);
  for (const [index, name] of names.entries()) {
    if (!content.apiServices.some((service) => service.name === name)) {
      throw problem("INVALID_ARGUMENT", `The revision has no API service ${name}.`, {
        violations: [
          {
            field: `api_services[${index}]`,
            description: `the revision has ${content.apiServices.map((service) => service.name).join(", ")}`,
          },
        ],
      });
    }
  }
  return [...new Set(names)];
}

/** Throws PRIVATE_BACKEND, ROUTE_CONFLICT. The caller holds the gateway, so that no other publish comes between. */
export async function refuseUnplaceable(
  ports: PublishPorts,
  tx: Tx,
  content: ProductManifest,
  place: { clusterId: string; gatewayId: string; productId: string; allowPrivateBackends: boolean },
): Promise<void> {
  if (!place.allowPrivateBackends) refusePrivateBackends(ports, content);
  await refuseConflicts(ports, tx, content, place);
}

function refusePrivateBackends(ports: PublishPorts, content: ProductManifest): void {
  const found = ports.privateBackends(content);
  const [first] = found;
  if (first === undefined) return;
  throw problem(
    "PRIVATE_BACKEND",
    `${first.url} is an address inside the place's own network; the cluster's policy does not allow private backends.`,
    {
      violations: found.map(({ path, url }) => ({
        field: path,
        description: `${url} is a private, loopback or metadata address`,
      })),
    },
  );
}

/**
 * Against everything that other products may answer with there: what is in force, what failed and may be tried
 * again, and what still serves because its successor failed.
 */
async function refuseConflicts(
  ports: PublishPorts,
  tx: Tx,
  content: ProductManifest,
  place: { clusterId: string; gatewayId: string; productId: string },
): Promise<void> {
  const others = await tx
    .selectFrom("product_publishes as p")
    .innerJoin("product_revisions as v", "v.id", "p.revision_id")
    .innerJoin("products as o", "o.id", "p.product_id")
    .select(["v.content", "o.name", "p.api_services"])
    .where("p.cluster_id", "=", place.clusterId)
    .where("p.gateway_id", "=", place.gatewayId)
    .where("p.product_id", "<>", place.productId)
    .where(
      sql<boolean>`(p.state = ANY(${[...inForceStates]}) OR (p.state = 'FAILED' AND NOT ${hasNewer}) OR EXISTS (
        SELECT 1 FROM route_attachments AS r WHERE r.serving_publish_id = p.id AND NOT r.removing))`,
    )
    .orderBy("p.id")
    .execute();
  for (const other of others) {
    const theirs = fromBinary(ProductManifestSchema, other.content);
    const [conflict] = ports.conflicts(content, { ...theirs, apiServices: servedServices(theirs, other.api_services) });
    if (conflict === undefined) continue;
    throw problem(
      "ROUTE_CONFLICT",
      `Product ${other.name} answers on ${conflict.what} of this gateway and cluster already.`,
      {
        violations: [{ field: conflict.a, description: `also claimed by ${other.name}: ${conflict.b}` }],
        metadata: { product: other.name },
      },
    );
  }
}
