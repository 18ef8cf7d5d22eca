/** Publishing: create, deploy, roll back, unpublish; and placing what waits on agents that come later. */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import {
  type CommandLimits,
  CommandLimitsSchema,
  type CreateProductPublishRequest,
  type ProductManifest,
  ProductManifestSchema,
} from "@bowline/contract/products";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import { defaultLimits, type EnginePorts, type Limits } from "../commands/index.ts";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, type Principal, seesAll, systemPrincipal } from "../platform/context.ts";
import { transact, type Tx, type Work } from "../platform/transactions.ts";
import { attach, detach, eligibleAgents } from "./attachments.ts";
import { listenersOf, markPublished } from "./catalogue/index.ts";
import { type GatewayTemplate, servedServices } from "./compile.ts";
import { settle, touch } from "./owner.ts";

/** What publishing needs of the catalogue and of clusters. */
export interface PublishPorts {
  engine: () => EnginePorts;
  lockCluster(
    tx: Tx,
    idOrName: string,
    principal: Principal,
    organisationId?: string,
  ): Promise<{ id: string; name: string; policy: { allowPrivateBackends: boolean } }>;
  revision(
    work: Work,
    caller: Caller,
    product: string,
    revision: string,
  ): Promise<{
    productId: string;
    productName: string;
    organisationId: string;
    revisionId: string;
    number: number;
    content: ProductManifest;
  }>;
  gateway(
    work: Work,
    caller: Caller,
    gateway: string,
    organisationId: string,
  ): Promise<GatewayTemplate & { name: string; agentLabels: Record<string, string>; organisationId: string }>;
  privateBackends(content: ProductManifest): readonly { path: string; url: string }[];
  conflicts(a: ProductManifest, b: ProductManifest): readonly { a: string; b: string; what: string }[];
}

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
  await ports.lockCluster(work.tx, cluster.id, caller.principal, revision.organisationId);
  const gateway = await ports.gateway(work, caller, request.gatewayId, revision.organisationId);
  const named = namedServices(revision.content, request.apiServices);
  const content = { ...revision.content, apiServices: servedServices(revision.content, named) };
  refusePrivateBackends(ports, content, cluster.policy.allowPrivateBackends);
  await refuseConflicts(ports, work.tx, content, {
    clusterId: cluster.id,
    gatewayId: gateway.id,
    productId: revision.productId,
  });
  const id = newId("publish");
  await work.tx
    .insertInto("product_publishes")
    .values({
      id,
      organisation_id: revision.organisationId,
      product_id: revision.productId,
      revision_id: revision.revisionId,
      cluster_id: cluster.id,
      gateway_id: gateway.id,
      api_services: JSON.stringify(named),
      state: "DRAFT",
      limits: Buffer.from(
        request.limits === undefined ? new Uint8Array() : toBinary(CommandLimitsSchema, request.limits),
      ),
      rollback_of: rollbackOf,
      created_by: caller.principal.id,
    })
    .execute();
  if (!request.draft) await deploy(ports, work, caller, id);
  else await touch(ports.engine(), work, id);
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

/** Deploys a draft: supersedes what is in force there and enqueues commands for every agent that the placement chooses. */
export async function deploy(ports: PublishPorts, work: Work, caller: Caller, publishId: string): Promise<void> {
  const publish = await readForUpdate(work.tx, publishId);
  if (publish.state !== "DRAFT") throw problem("PUBLISH_NOT_DRAFT", undefined, { metadata: { state: publish.state } });
  const superseded = await work.tx
    .updateTable("product_publishes")
    .set({ state: "SUPERSEDED", superseded_by: publishId, reason: "", message: "" })
    .where("cluster_id", "=", publish.cluster_id)
    .where("gateway_id", "=", publish.gateway_id)
    .where("product_id", "=", publish.product_id)
    .where("state", "in", ["PENDING", "DISPATCHED", "APPLYING", "LIVE"])
    .returning("id")
    .execute();
  for (const row of superseded) await touch(ports.engine(), work, row.id);
  await work.tx.updateTable("product_publishes").set({ state: "PENDING" }).where("id", "=", publishId).execute();
  await markPublished(work, publish.product_id);
  await place(ports, work, caller, publishId);
}

/** Gives a publish that is in force to every eligible agent that lacks it. Returns how many were new. */
export async function place(ports: PublishPorts, work: Work, caller: Caller, publishId: string): Promise<number> {
  const publish = await readForUpdate(work.tx, publishId);
  const row = await work.tx
    .selectFrom("product_publishes as p")
    .innerJoin("product_revisions as v", "v.id", "p.revision_id")
    .innerJoin("gateways as g", "g.id", "p.gateway_id")
    .innerJoin("clusters as c", "c.id", "p.cluster_id")
    .select([
      "v.number",
      "v.content",
      "g.gateway_class",
      "g.listeners",
      "g.agent_labels",
      "g.organisation_id as gateway_organisation_id",
      "c.policy",
      "c.is_active",
      "c.deleting",
    ])
    .where("p.id", "=", publishId)
    .executeTakeFirstOrThrow();
  const target = {
    clusterId: publish.cluster_id,
    productId: publish.product_id,
    gateway: {
      id: publish.gateway_id,
      gatewayClass: row.gateway_class,
      listeners: listenersOf(row.listeners),
      agentLabels: row.agent_labels,
      organisationId: row.gateway_organisation_id,
    },
  };
  const known = await work.tx
    .selectFrom("publish_targets")
    .select("agent_id")
    .where("product_publish_id", "=", publishId)
    .execute();
  const chosen = (await eligibleAgents(work.tx, target)).filter(
    (agentId) => !known.some((row) => row.agent_id === agentId),
  );
  const commands = await attach(
    ports.engine(),
    work,
    caller,
    target,
    {
      publishId,
      revision: row.number,
      apiServices: publish.api_services,
      content: fromBinary(ProductManifestSchema, row.content),
      allowPrivateBackends: (row.policy as { allowPrivateBackends?: boolean }).allowPrivateBackends === true,
      organisationId: publish.organisation_id,
      limits: limitsOf(publish.limits),
    },
    chosen,
  );
  if (commands.length > 0) {
    await work.tx
      .insertInto("publish_targets")
      .values(
        commands.map((command) => ({
          product_publish_id: publishId,
          agent_id: command.agentId,
          deployment_id: command.deploymentId,
          generation: command.generation,
          command_id: command.commandId,
          state: "PENDING",
        })),
      )
      .execute();
  }
  await settle(ports.engine(), work, publishId);
  return commands.length;
}

/** Places what is in force on agents that came, came back or got a label since. One transaction per publish. */
export async function placeEverywhere(
  ports: PublishPorts,
  transact: <T>(body: (work: Work) => Promise<T>) => Promise<T>,
  agentId?: string,
): Promise<void> {
  const { rows } = await sql<{ id: string }>`
    SELECT DISTINCT p.id FROM product_publishes AS p
    JOIN clusters AS c ON c.id = p.cluster_id AND NOT c.deleting
    JOIN gateways AS g ON g.id = p.gateway_id
    JOIN agents AS a ON a.cluster_id = p.cluster_id AND a.state = 'ENROLLED' AND NOT a.cordoned
      AND a.capabilities ? ('gateway-class/' || g.gateway_class)
      AND (a.reported_labels || a.labels) @> g.agent_labels
    WHERE p.state IN ('PENDING', 'DISPATCHED', 'APPLYING', 'LIVE')
      AND (${agentId ?? ""} = '' OR a.id = ${agentId ?? ""})
      AND NOT EXISTS (SELECT 1 FROM publish_targets AS t WHERE t.product_publish_id = p.id AND t.agent_id = a.id)
    LIMIT 200`.execute(ports.engine().db);
  for (const row of rows) {
    await transact(async (work) => {
      const publish = await readForUpdate(work.tx, row.id);
      if (!["PENDING", "DISPATCHED", "APPLYING", "LIVE"].includes(publish.state)) return;
      await place(ports, work, { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } }, row.id);
    });
  }
}

/** Removes what a publish serves. Throws NOT_NEWEST_PUBLISH, PUBLISH_ENDED. */
export async function unpublish(ports: PublishPorts, work: Work, caller: Caller, publishId: string): Promise<void> {
  const publish = await readForUpdate(work.tx, publishId);
  if (publish.state === "UNPUBLISHING" || publish.state === "UNPUBLISHED") return; // asked twice
  if (publish.state === "SUPERSEDED")
    throw problem("NOT_NEWEST_PUBLISH", undefined, { metadata: { newest: publish.superseded_by } });
  const newest = await newestAt(work.tx, publish);
  if (newest !== undefined && newest !== publishId && publish.state !== "DRAFT")
    throw problem("NOT_NEWEST_PUBLISH", undefined, { metadata: { newest } });
  const limits = limitsOf(publish.limits);
  const commands =
    publish.state === "DRAFT"
      ? []
      : await detach(
          ports.engine(),
          work,
          caller,
          {
            clusterId: publish.cluster_id,
            gatewayId: publish.gateway_id,
            productId: publish.product_id,
            publishId,
            organisationId: publish.organisation_id,
          },
          limits,
        );
  await work.tx
    .updateTable("product_publishes")
    .set({ state: "UNPUBLISHING", reason: "", message: "" })
    .where("id", "=", publishId)
    .execute();
  // Targets whose routes are gone already have nothing to remove.
  await work.tx
    .updateTable("publish_targets")
    .set({ state: "UNPUBLISHED" })
    .where("product_publish_id", "=", publishId)
    .execute();
  for (const command of commands) {
    const values = {
      generation: command.generation,
      command_id: command.commandId,
      state: "UNPUBLISHING",
      reason: "",
      message: "",
    };
    await work.tx
      .insertInto("publish_targets")
      .values({
        product_publish_id: publishId,
        agent_id: command.agentId,
        deployment_id: command.deploymentId,
        ...values,
      })
      .onConflict((conflict) =>
        conflict.columns(["product_publish_id", "agent_id"]).doUpdateSet({ ...values, updated_at: sql`now()` }),
      )
      .execute();
  }
  await settle(ports.engine(), work, publishId);
  await audit(ports.engine().events, work, caller, {
    action: "product-publish.unpublish",
    resourceKind: "product-publish",
    resourceId: publishId,
    organisationId: publish.organisation_id,
  });
}

/** Unpublishes everything of a cluster, for its deletion. Asked again, it does nothing new. */
export async function unpublishAll(ports: PublishPorts, clusterId: string): Promise<void> {
  const rows = await sql<{ id: string }>`
    SELECT DISTINCT ON (gateway_id, product_id) id FROM product_publishes
    WHERE cluster_id = ${clusterId} AND state <> 'DRAFT'
    ORDER BY gateway_id, product_id, created_at DESC, id DESC`.execute(ports.engine().db);
  const itself: Caller = { principal: systemPrincipal, request: { requestId: "", remoteAddress: "" } };
  for (const { id } of rows.rows) await transact(ports.engine().db, (work) => unpublish(ports, work, itself, id));
}

/** A new publish of an older revision. Returns its id. Throws NOTHING_TO_ROLL_BACK_TO. */
export async function rollback(
  ports: PublishPorts,
  work: Work,
  caller: Caller,
  publishId: string,
): Promise<{ publishId: string; request: Partial<CreateProductPublishRequest> }> {
  const publish = await readForUpdate(work.tx, publishId);
  const newest = await newestAt(work.tx, publish);
  let from = publish;
  if (newest === publishId) {
    const before = await work.tx
      .selectFrom("product_publishes")
      .selectAll()
      .where("cluster_id", "=", publish.cluster_id)
      .where("gateway_id", "=", publish.gateway_id)
      .where("product_id", "=", publish.product_id)
      .where("id", "<>", publishId)
      .where("revision_id", "<>", publish.revision_id)
      .where("live_at", "is not", null)
      .orderBy("created_at", "desc")
      .executeTakeFirst();
    if (before === undefined) throw problem("NOTHING_TO_ROLL_BACK_TO");
    from = before;
  }
  const request = {
    productId: from.product_id,
    clusterId: from.cluster_id,
    gatewayId: from.gateway_id,
    revisionId: from.revision_id,
    apiServices: from.api_services,
    draft: false,
    requestId: "",
    ...(publish.limits.length === 0 ? {} : { limits: fromBinary(CommandLimitsSchema, publish.limits) }),
  };
  return {
    publishId: await createPublish(ports, work, caller, request as CreateProductPublishRequest, from.id),
    request,
  };
}

async function readForUpdate(tx: Tx, publishId: string) {
  const row = await tx
    .selectFrom("product_publishes")
    .selectAll()
    .where("id", "=", publishId)
    .forUpdate()
    .executeTakeFirst();
  if (row === undefined) throw problem("NOT_FOUND", `There is no publish ${publishId}.`);
  return row;
}

/** The newest publish at that place that was deployed. */
async function newestAt(
  tx: Tx,
  place: { cluster_id: string; gateway_id: string; product_id: string },
): Promise<string | undefined> {
  const row = await tx
    .selectFrom("product_publishes")
    .select("id")
    .where("cluster_id", "=", place.cluster_id)
    .where("gateway_id", "=", place.gateway_id)
    .where("product_id", "=", place.product_id)
    .where("state", "<>", "DRAFT")
    .orderBy("created_at", "desc")
    .orderBy("id", "desc")
    .executeTakeFirst();
  return row?.id;
}

/** Throws NOT_FOUND unless the caller may change the publish. */
export async function authorise(tx: Tx, caller: Caller, publishId: string): Promise<void> {
  let query = tx.selectFrom("product_publishes").select("id").where("id", "=", publishId);
  if (!seesAll(caller.principal)) query = query.where("organisation_id", "=", caller.principal.organisationId);
  if ((await query.executeTakeFirst()) === undefined) throw problem("NOT_FOUND", `There is no publish ${publishId}.`);
}

function namedServices(content: ProductManifest, asked: readonly string[]): string[] {
  for (const [index, name] of asked.entries()) {
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
  return [...asked];
}

function refusePrivateBackends(ports: PublishPorts, content: ProductManifest, allowed: boolean): void {
  if (allowed) return;
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
    .where("p.state", "in", ["PENDING", "DISPATCHED", "APPLYING", "LIVE"])
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
