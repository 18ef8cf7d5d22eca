/** Placing publishes in force on agents: at once, and on those that come later. */
import { fromBinary } from "@bufbuild/protobuf";
import { type ProductManifest, ProductManifestSchema } from "@bowline/contract/products";
import { isProblem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Caller } from "../platform/context.ts";
import { type Tx, transact, type Work } from "../platform/transactions.ts";
import { attach, eligibleAgents, type Place, underWay, unplaced } from "./attachments.ts";
import { secretNames } from "./compile.ts";
import { settle } from "./owner.ts";
import type { PublishPorts } from "./publish-ports.ts";
import { inForceStates, itself, limitsOf, lockPublish, type PublishRow } from "./publish-rows.ts";

/** Gives a publish that is in force to every eligible agent that lacks it. The caller holds the cluster. */
export async function place(ports: PublishPorts, work: Work, caller: Caller, publishId: string): Promise<void> {
  const { publish, gateway } = await lockPublish(ports, work, publishId);
  if (!inForceStates.some((state) => state === publish.state)) return;
  const row = await work.tx
    .selectFrom("product_publishes as p")
    .innerJoin("product_revisions as v", "v.id", "p.revision_id")
    .innerJoin("clusters as c", "c.id", "p.cluster_id")
    .select(["v.number", "v.content", "c.policy"])
    .where("p.id", "=", publishId)
    .executeTakeFirstOrThrow();
  const known = await work.tx
    .selectFrom("publish_targets")
    .select("agent_id")
    .where("product_publish_id", "=", publishId)
    .execute();
  const { allowPrivateBackends } = row.policy as { allowPrivateBackends?: boolean };
  const changed = await placeOn(
    ports,
    work,
    caller,
    {
      ...{ publish, gateway, policy: { allowPrivateBackends: allowPrivateBackends === true } },
      revision: { number: row.number, content: fromBinary(ProductManifestSchema, row.content) },
    },
    new Set(known.map((target) => target.agent_id)),
  );
  if (changed) await settle(ports.engine(), work, [publishId]);
}

/** What a placing is about. */
export interface Placing {
  publish: PublishRow;
  gateway: Place["gateway"];
  revision: { number: number; content: ProductManifest };
  policy: { allowPrivateBackends: boolean };
}

/**
 * Gives a publish to every eligible agent but `known`, or to those whose turn it is. Resolves with whether that changed
 * anything. The caller holds its place (R2).
 */
export async function placeOn(
  ports: PublishPorts,
  work: Work,
  caller: Caller,
  { publish, gateway, revision, policy }: Placing,
  known: ReadonlySet<string>,
): Promise<boolean> {
  const target = { clusterId: publish.cluster_id, productId: publish.product_id, gateway };
  const without = (await eligibleAgents(work.tx, target)).filter((agent) => !known.has(agent.id));
  const chosen = await nextAgents(work.tx, publish, without);
  const named = secretNames(revision.content, publish.api_services);
  const commands = await attach(
    ports.engine(),
    work,
    caller,
    target,
    {
      publishId: publish.id,
      revision: revision.number,
      apiServices: publish.api_services,
      content: revision.content,
      allowPrivateBackends: policy.allowPrivateBackends,
      secretVersions: await ports.secretVersions(work.tx, publish.organisation_id, named),
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
          product_publish_id: publish.id,
          agent_id: command.agentId,
          deployment_id: command.deploymentId,
          generation: command.generation,
          command_id: command.commandId,
          state: "PENDING",
        })),
      )
      .execute();
  }
  const toCome = without.length - chosen.length;
  const waits = toCome !== publish.to_come;
  if (waits)
    await work.tx.updateTable("product_publishes").set({ to_come: toCome }).where("id", "=", publish.id).execute();
  if (commands.length === 0 && known.size === 0) await settle(ports.engine(), work, [publish.id]); // NO_AGENT
  return waits || commands.length > 0;
}

/** Of the agents that lack a publish those that get it now. Who is away comes after all others, and then at once. */
async function nextAgents(
  tx: Tx,
  publish: PublishRow,
  without: readonly { id: string; online: boolean }[],
): Promise<string[]> {
  const ids = (agents: typeof without) => agents.map(({ id }) => id);
  if (publish.max_parallel === 0) return ids(without);
  const { rows } = await sql<{ count: number }>`${underWay(sql.val(publish.id))}`.execute(tx);
  const open = rows[0]?.count ?? 0;
  const online = without.filter((agent) => agent.online);
  if (online.length > 0) return ids(online.slice(0, Math.max(0, publish.max_parallel - open)));
  return open === 0 ? ids(without) : [];
}

/** Publishes that one round places; the next round finds the rest. */
const roundSize = 200;

/**
 * Places what is in force on agents that came, came back or got a label since. One transaction per publish; one that
 * fails does not keep the others from their agents.
 */
export async function placeEverywhere(ports: PublishPorts): Promise<void> {
  const { db, log } = ports.engine();
  for (const publishId of await unplaced(db, roundSize)) {
    try {
      await transact(db, async (work) => {
        const row = await work.tx
          .selectFrom("product_publishes")
          .select("cluster_id")
          .where("id", "=", publishId)
          .executeTakeFirst();
        if (row === undefined) return; // deleted since
        await ports.lockCluster(work.tx, row.cluster_id, itself.principal);
        await place(ports, work, itself, publishId);
      });
    } catch (error) {
      // The cluster takes nothing new any more since it was looked at.
      if (isProblem(error, "CLUSTER_INACTIVE") || isProblem(error, "CLUSTER_DELETING")) continue;
      log.warn({ error, publishId }, "a publish could not be placed; tried again");
    }
  }
}
