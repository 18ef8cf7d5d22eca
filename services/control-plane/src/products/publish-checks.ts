/** What refuses a publish before anything is enqueued. */
import { fromBinary } from "@bufbuild/protobuf";
import { type ProductManifest, ProductManifestSchema } from "@bowline/contract/products";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";
import { servedServices } from "./compile.ts";
import type { PublishPorts } from "./publish-ports.ts";
import { hasNewer } from "./publish-rows.ts";

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

/**
 * Throws PRIVATE_BACKEND, ROUTE_CONFLICT. The caller holds the place (R2).
 *
 * K1: who claims a match that its place does not have yet is alone at the gateway and cluster until its commit, so that
 *     no two claim it side by side. Who claims no more than its place has holds the same lock shared: it takes nothing
 *     from anybody, and whoever claims more waits for it.
 */
export async function refuseUnplaceable(
  ports: PublishPorts,
  tx: Tx,
  content: ProductManifest,
  place: { clusterId: string; gatewayId: string; productId: string; allowPrivateBackends: boolean },
): Promise<void> {
  if (!place.allowPrivateBackends) refusePrivateBackends(ports, content);
  const held = await heldBy(tx, place);
  const more = held === undefined || ports.claimsMore(held, content);
  const name = `${place.clusterId} ${place.gatewayId}`;
  await (
    more
      ? sql`SELECT pg_advisory_xact_lock(hashtextextended(${name}, 17))`
      : sql`SELECT pg_advisory_xact_lock_shared(hashtextextended(${name}, 17))`
  ).execute(tx); // K1
  if (more) await refuseConflicts(ports, tx, content, place);
}

/** What the newest publish of the place claims; undefined where it claims nothing any more. */
async function heldBy(
  tx: Tx,
  place: { clusterId: string; gatewayId: string; productId: string },
): Promise<ProductManifest | undefined> {
  const newest = await tx
    .selectFrom("product_publishes as p")
    .innerJoin("product_revisions as v", "v.id", "p.revision_id")
    .select(["v.content", "p.api_services", "p.state"])
    .where("p.cluster_id", "=", place.clusterId)
    .where("p.gateway_id", "=", place.gatewayId)
    .where("p.product_id", "=", place.productId)
    .where("p.deployed_at", "is not", null)
    .orderBy("p.deployed_at", "desc")
    .limit(1)
    .executeTakeFirst();
  if (newest === undefined || newest.state === "UNPUBLISHING" || newest.state === "UNPUBLISHED") return undefined;
  const content = fromBinary(ProductManifestSchema, newest.content);
  return { ...content, apiServices: servedServices(content, newest.api_services) };
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
    .where("p.product_id", "<>", place.productId)
    // Each by an index of its own: the history of a gateway is longer than what it serves.
    .where(
      sql<boolean>`p.id IN (
        SELECT f.id FROM product_publishes AS f WHERE f.cluster_id = ${place.clusterId} AND f.gateway_id = ${place.gatewayId}
          AND f.state IN ('PENDING', 'DISPATCHED', 'APPLYING', 'LIVE')
        UNION SELECT p.id FROM product_publishes AS p WHERE p.cluster_id = ${place.clusterId}
          AND p.gateway_id = ${place.gatewayId} AND p.state = 'FAILED' AND NOT ${hasNewer}
        UNION SELECT r.serving_publish_id FROM route_attachments AS r
          WHERE r.gateway_id = ${place.gatewayId} AND NOT r.removing)`,
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
