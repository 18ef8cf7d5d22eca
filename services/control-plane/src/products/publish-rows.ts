/**
 * Reading and locking publishes.
 *
 * R1: of a place (a product at a gateway and cluster) the newest publish is the
 *     one that was deployed last; drafts don't count.
 * R2: who changes a publish holds its gateway FOR SHARE, then its place, then
 *     the place's deployments, then its row (T2): results hold deployments when
 *     they come to it. Publishes of other products go side by side.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { type CommandLimits, CommandLimitsSchema } from "@bowline/contract/products";
import type { ProductPublishesTable } from "@bowline/db";
import { problem } from "@bowline/kernel";
import { type Selectable, sql } from "kysely";
import { defaultLimits, type Limits } from "../commands/index.ts";
import { type Caller, seesAll, systemPrincipal } from "../platform/context.ts";
import type { Tx, Work } from "../platform/transactions.ts";
import type { PublishPorts } from "./publish-ports.ts";

export type PublishRow = Selectable<ProductPublishesTable>;

/** States in which a publish is on its way or live: at most one of a place. */
export const inForceStates = ["PENDING", "DISPATCHED", "APPLYING", "LIVE"] as const;

/** The same in the words of the index `product_publishes_in_force`: with parameters no plan may use it. */
export const inForce = sql<boolean>`state IN ('PENDING', 'DISPATCHED', 'APPLYING', 'LIVE')`;

/** What the server does by itself. */
export const itself: Caller = { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } };

/** A publish without a lock. Throws NOT_FOUND. */
export async function readPublish(tx: Tx, publishId: string): Promise<PublishRow> {
  const row = await tx.selectFrom("product_publishes").selectAll().where("id", "=", publishId).executeTakeFirst();
  if (row === undefined) throw problem("NOT_FOUND", `There is no publish ${publishId}.`);
  return row;
}

/** R2: one at a time changes what a product has at a gateway and cluster. Until the transaction ends. */
export async function lockPlaceOf(
  tx: Tx,
  place: { clusterId: string; gatewayId: string; productId: string },
): Promise<void> {
  const name = `${place.clusterId} ${place.gatewayId} ${place.productId}`;
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${name}, 13))`.execute(tx);
}

/** Locks the routes deployments of a place, in order of id. */
export async function lockRoutesOf(
  tx: Tx,
  place: { clusterId: string; gatewayId: string; productId: string },
): Promise<void> {
  await sql`
    SELECT id FROM deployments WHERE cluster_id = ${place.clusterId} AND id IN (
      SELECT deployment_id FROM route_attachments
      WHERE product_id = ${place.productId} AND gateway_id = ${place.gatewayId} AND NOT removing)
    ORDER BY id FOR UPDATE`.execute(tx);
}

/** A publish, locked in the order of R2, and its gateway. Throws NOT_FOUND. */
export async function lockPublish(
  ports: PublishPorts,
  work: Work,
  publishId: string,
): Promise<{ publish: PublishRow; gateway: Awaited<ReturnType<PublishPorts["gateway"]>> }> {
  const place = await readPublish(work.tx, publishId);
  const gateway = await ports.gateway(work, itself, place.gateway_id, place.organisation_id);
  const at = { clusterId: place.cluster_id, gatewayId: place.gateway_id, productId: place.product_id };
  await lockPlaceOf(work.tx, at);
  await lockRoutesOf(work.tx, at);
  const publish = await work.tx
    .selectFrom("product_publishes")
    .selectAll()
    .where("id", "=", publishId)
    .forUpdate()
    .executeTakeFirst();
  if (publish === undefined) throw problem("NOT_FOUND", `There is no publish ${publishId}.`);
  return { publish, gateway };
}

/** The newest publish of a place (R1). */
export async function newestAt(
  tx: Tx,
  place: Pick<PublishRow, "cluster_id" | "gateway_id" | "product_id">,
): Promise<string | undefined> {
  const row = await tx
    .selectFrom("product_publishes")
    .select("id")
    .where("cluster_id", "=", place.cluster_id)
    .where("gateway_id", "=", place.gateway_id)
    .where("product_id", "=", place.product_id)
    .where("deployed_at", "is not", null)
    .orderBy("deployed_at", "desc")
    .executeTakeFirst();
  return row?.id;
}

/** For a subquery over `p`: a publish of the same place was deployed later (R1). */
export const hasNewer = sql<boolean>`EXISTS (
  SELECT 1 FROM product_publishes AS n WHERE n.cluster_id = p.cluster_id AND n.gateway_id = p.gateway_id
    AND n.product_id = p.product_id AND n.deployed_at > p.deployed_at)`;

/** An agent is not there, whatever it was to have (reverts.ts, V1). */
const absences = ["OFFLINE_LIFE_EXCEEDED", "AGENT_AWAY_TOO_LONG", "AGENT_REVOKED", "AGENT_RETIRED"] as const;

/**
 * For publishes `p`: what failed as the newest of its place, is no rollback itself, and has a revision before it that
 * was live. Only what failed costs the rest.
 */
export const isTakenBack = sql<boolean>`CASE WHEN p.state = 'FAILED' AND p.auto_revert AND p.rollback_of = '' THEN
  EXISTS (SELECT 1 FROM publish_targets AS t WHERE t.product_publish_id = p.id AND t.state = 'FAILED'
    AND t.reason NOT IN (${sql.join(absences.map((reason) => sql.lit(reason)))}))
  AND NOT ${hasNewer} AND EXISTS (
    SELECT 1 FROM product_publishes AS b WHERE b.cluster_id = p.cluster_id AND b.gateway_id = p.gateway_id
      AND b.product_id = p.product_id AND b.revision_id <> p.revision_id AND b.live_at IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM product_publishes AS u WHERE u.cluster_id = p.cluster_id AND u.gateway_id = p.gateway_id
          AND u.product_id = p.product_id AND u.deployed_at >= b.deployed_at AND u.state IN ('UNPUBLISHING', 'UNPUBLISHED'))) -- V2
  ELSE false END`;

/** Throws NOT_FOUND unless the caller may change the publish. */
export async function authorise(tx: Tx, caller: Caller, publishId: string): Promise<void> {
  let query = tx.selectFrom("product_publishes").select("id").where("id", "=", publishId);
  if (!seesAll(caller.principal)) query = query.where("organisation_id", "=", caller.principal.organisationId);
  if ((await query.executeTakeFirst()) === undefined) throw problem("NOT_FOUND", `There is no publish ${publishId}.`);
}

/** The limits of a request as the engine takes them. */
export function limitsOf(bytes: Uint8Array): Limits {
  const given: CommandLimits = fromBinary(CommandLimitsSchema, bytes);
  return {
    maxRetries: given.maxRetries ?? defaultLimits.maxRetries,
    runTimeoutMs: given.runTimeout === undefined ? defaultLimits.runTimeoutMs : durationMs(given.runTimeout),
    graceMs: given.grace === undefined ? defaultLimits.graceMs : durationMs(given.grace),
    cancelLimitMs: given.cancelLimit === undefined ? defaultLimits.cancelLimitMs : durationMs(given.cancelLimit),
    offlineLifeMs: given.offlineLife === undefined ? defaultLimits.offlineLifeMs : durationMs(given.offlineLife),
    deadlineMs: given.deadline === undefined ? undefined : durationMs(given.deadline),
    priority: given.priority ?? defaultLimits.priority,
  };
}
