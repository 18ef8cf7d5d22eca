/** Publishing: create, deploy, roll back. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  CommandLimitsSchema,
  type CreateProductPublishRequest,
  CreateProductPublishRequestSchema,
  ProductManifestSchema,
} from "@bowline/contract/products";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { audit } from "../platform/audit-trail.ts";
import type { Caller } from "../platform/context.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import { markPublished } from "./catalogue/index.ts";
import { servedServices } from "./compile.ts";
import { notePublishes } from "./owner.ts";
import { place, placeOn } from "./placing.ts";
import { namedServices, refuseUnplaceable } from "./publish-checks.ts";
import type { PublishPorts } from "./publish-ports.ts";
import {
  inForce,
  lockPlaceOf,
  lockPublish,
  lockRoutesOf,
  newestAt,
  type PublishRow,
  readPublish,
} from "./publish-rows.ts";

/** Creates a publish and, unless it is a draft, deploys it. Returns its id. */
export async function createPublish(
  ports: PublishPorts,
  work: Work,
  caller: Caller,
  request: CreateProductPublishRequest,
  rollbackOf = "",
): Promise<string> {
  // The cluster's row first (T2), then what the organisation has of its own.
  const cluster = await ports.lockCluster(work.tx, request.clusterId, caller.principal);
  const revision = await ports.revision(work, caller, request.productId, request.revisionId);
  if (revision.organisationId !== caller.principal.organisationId)
    await ports.lockCluster(work.tx, cluster.id, caller.principal, revision.organisationId);
  const gateway = await ports.gateway(work, caller, request.gatewayId, revision.organisationId);
  const at = { clusterId: cluster.id, gatewayId: gateway.id, productId: revision.productId };
  await lockPlaceOf(work.tx, at); // R2
  const named = await namedServices(work.tx, revision.content, revision.organisationId, request.apiServices);
  await refuseUnplaceable(
    ports,
    work.tx,
    { ...revision.content, apiServices: servedServices(revision.content, named) },
    { ...at, allowPrivateBackends: cluster.policy.allowPrivateBackends },
  );
  const id = newId("publish");
  if (!request.draft) {
    await lockRoutesOf(work.tx, at);
    await supersede(ports, work, at, id);
  }
  const publish = await work.tx
    .insertInto("product_publishes")
    .values({
      id,
      organisation_id: revision.organisationId,
      product_id: revision.productId,
      revision_id: revision.revisionId,
      cluster_id: cluster.id,
      gateway_id: gateway.id,
      api_services: JSON.stringify(named),
      ...(request.draft ? { state: "DRAFT" } : inForceNow),
      max_parallel: request.rollout?.maxParallel ?? 0,
      auto_revert: request.rollout?.autoRevert ?? false,
      limits: Buffer.from(
        request.limits === undefined ? new Uint8Array() : toBinary(CommandLimitsSchema, request.limits),
      ),
      rollback_of: rollbackOf,
      created_by: caller.principal.id,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
  await notePublishes(ports.engine(), work, [publish]);
  if (!request.draft) {
    if (!revision.published) await markPublished(work, revision.productId);
    const { number, content } = revision;
    await placeOn(
      ports,
      work,
      caller,
      { publish, gateway, revision: { number, content }, policy: cluster.policy },
      new Set(),
    );
  }
  await audit(ports.engine().events, work, caller, {
    action: rollbackOf === "" ? "product-publish.create" : "product-publish.rollback",
    resourceKind: "product-publish",
    resourceId: id,
    organisationId: revision.organisationId,
    after: {
      product: revision.productName,
      revision: revision.number,
      cluster: cluster.name,
      gateway: gateway.name,
      draft: request.draft,
      rollbackOf,
    },
  });
  return id;
}

/** Deploys a draft, if what held when it was made still holds. Throws PUBLISH_NOT_DRAFT, and what creating throws. */
export async function deploy(ports: PublishPorts, work: Work, caller: Caller, publishId: string): Promise<void> {
  const { cluster_id: clusterId, organisation_id: organisationId } = await readPublish(work.tx, publishId);
  const cluster = await ports.lockCluster(work.tx, clusterId, caller.principal, organisationId);
  const { publish } = await lockPublish(ports, work, publishId);
  if (publish.state !== "DRAFT") throw problem("PUBLISH_NOT_DRAFT", undefined, { metadata: { state: publish.state } });
  const content = await contentOf(work.tx, publish);
  await refuseUnplaceable(
    ports,
    work.tx,
    { ...content, apiServices: servedServices(content, publish.api_services) },
    {
      clusterId,
      gatewayId: publish.gateway_id,
      productId: publish.product_id,
      allowPrivateBackends: cluster.policy.allowPrivateBackends,
    },
  );
  await putInForce(ports, work, caller, publish);
  await audit(ports.engine().events, work, caller, {
    action: "product-publish.deploy",
    resourceKind: "product-publish",
    resourceId: publishId,
    organisationId,
  });
}

/** Not now(): that is when the transaction began, before it waited for its turn. */
const inForceNow = { state: "PENDING", deployed_at: sql<Date>`clock_timestamp()` } as const;

/** Puts a draft in force, and enqueues commands for every agent that the placement chooses. The caller holds it (R2). */
async function putInForce(ports: PublishPorts, work: Work, caller: Caller, publish: PublishRow): Promise<void> {
  const at = { clusterId: publish.cluster_id, gatewayId: publish.gateway_id, productId: publish.product_id };
  await supersede(ports, work, at, publish.id);
  await work.tx.updateTable("product_publishes").set(inForceNow).where("id", "=", publish.id).execute();
  await markPublished(work, publish.product_id);
  await place(ports, work, caller, publish.id);
}

/** What was in force there is so no more. */
async function supersede(
  ports: PublishPorts,
  work: Work,
  at: { clusterId: string; gatewayId: string; productId: string },
  by: string,
): Promise<void> {
  const superseded = await work.tx
    .updateTable("product_publishes")
    .set({
      ...{ state: "SUPERSEDED", superseded_by: by, reason: "", message: "" },
      ...{ version: sql`version + 1`, updated_at: sql`now()` },
    })
    .where("cluster_id", "=", at.clusterId)
    .where("gateway_id", "=", at.gatewayId)
    .where("product_id", "=", at.productId)
    .where(inForce)
    .returning(["id", "organisation_id", "cluster_id"])
    .execute();
  await notePublishes(ports.engine(), work, superseded);
}

/**
 * A new publish of an older revision: of the publish's own, or, where it is the newest of its place, of the one before
 * it that was live. Returns its id. Throws NOTHING_TO_ROLL_BACK_TO, and what creating throws.
 */
export async function rollback(ports: PublishPorts, work: Work, caller: Caller, publishId: string): Promise<string> {
  const publish = await readPublish(work.tx, publishId);
  const from = (await newestAt(work.tx, publish)) === publishId ? await liveBefore(work.tx, publish) : publish;
  if (from === undefined) throw problem("NOTHING_TO_ROLL_BACK_TO");
  const request = create(CreateProductPublishRequestSchema, {
    productId: from.product_id,
    clusterId: from.cluster_id,
    gatewayId: from.gateway_id,
    revisionId: from.revision_id,
    apiServices: from.api_services,
    ...(publish.limits.length === 0 ? {} : { limits: fromBinary(CommandLimitsSchema, publish.limits) }),
  });
  return createPublish(ports, work, caller, request, from.id);
}

/** The last publish of another revision at the same place that was live. */
async function liveBefore(tx: Tx, publish: PublishRow): Promise<PublishRow | undefined> {
  return tx
    .selectFrom("product_publishes")
    .selectAll()
    .where("cluster_id", "=", publish.cluster_id)
    .where("gateway_id", "=", publish.gateway_id)
    .where("product_id", "=", publish.product_id)
    .where("id", "<>", publish.id)
    .where("revision_id", "<>", publish.revision_id)
    .where("live_at", "is not", null)
    .orderBy("deployed_at", "desc")
    .executeTakeFirst();
}

async function contentOf(tx: Tx, publish: PublishRow) {
  const row = await tx
    .selectFrom("product_revisions")
    .select("content")
    .where("id", "=", publish.revision_id)
    .executeTakeFirstOrThrow();
  return fromBinary(ProductManifestSchema, row.content);
}
