/**
 * What outcomes of commands do to publishes, in the transaction that records
 * them.
 *
 * O1: over several agents the worst decides, and a publish that is LIVE stays
 *     LIVE whoever joins or leaves.
 * O2: UNPUBLISHING ends only in UNPUBLISHED.
 * O3: what was live at an agent stays so while it is converged anew, until that
 *     fails; not where the agent has another host, on which nothing runs yet.
 * O4: a publish that FAILED comes back only while it is the newest of its place.
 * O5: routes that are tried again take a data plane that failed along: without
 *     it they would fail again, whatever was mended.
 */
import type { CommandState } from "@bowline/db";
import { sql } from "kysely";
import { again, type ChangedCommand, defaultLimits, type EnginePorts, type Owner } from "../commands/index.ts";
import type { Work } from "../platform/transactions.ts";
import { detached, forgetPlaces } from "./detachments.ts";
import { hasNewer } from "./publish-rows.ts";
import { aggregate, type PublishState, type TargetState, targetStateOf } from "./publish-states.ts";

/** Owner of routes deployments. */
export function publishOwner(ports: () => EnginePorts): Owner {
  return {
    async changed(work, commands) {
      const touched = new Set<string>();
      for (const command of commands) {
        const publishId = publishIdOf(command);
        if (command.isRemoval) await removalChanged(ports(), work, command, publishId);
        else await targetChanged(work, command, publishId);
        touched.add(publishId);
      }
      for (const publishId of touched) await settle(ports(), work, publishId);
    },
    async renewed(work, command) {
      await sql`
        UPDATE publish_targets SET command_id = ${command.commandId}, generation = ${command.generation}, updated_at = now(),
          state = CASE WHEN state IN ('UNPUBLISHING', 'UNPUBLISHED') THEN state -- O2
            WHEN state = 'LIVE' AND NOT ${command.fromNothing} THEN state -- O3
            ELSE 'PENDING' END,
          reason = '', message = ''
        WHERE product_publish_id = ${command.ownerId} AND deployment_id = ${command.deploymentId}`.execute(work.tx);
      if (command.fromNothing) {
        await work.tx
          .updateTable("route_attachments")
          .set({ serving_revision: 0, serving_generation: 0 })
          .where("deployment_id", "=", command.deploymentId)
          .execute();
      }
      await settle(ports(), work, command.ownerId);
      const dataPlane = await heldDataPlaneOf(work, command.deploymentId);
      if (dataPlane !== undefined) {
        const limits = { priority: defaultLimits.priority - 1 }; // before the routes that wait for it
        await again(ports(), work, dataPlane, { createdBy: "system", limits }); // O5
      }
    },
    async retired(work, agentId) {
      for (const publishId of await forgetPlaces(work, agentId)) await settle(ports(), work, publishId);
    },
    async progressed(work, commandId) {
      const row = await work.tx
        .selectFrom("commands")
        .select(["product_publish_id as productPublishId", "owner_id as ownerId"])
        .where("id", "=", commandId)
        .executeTakeFirst();
      if (row !== undefined) await touch(ports(), work, publishIdOf(row));
    },
    async observed(work, deploymentIds) {
      const rows = await work.tx
        .selectFrom("publish_targets")
        .select("product_publish_id")
        .distinct()
        .where("deployment_id", "in", [...deploymentIds])
        .execute();
      for (const row of rows) await touch(ports(), work, row.product_publish_id);
    },
  };
}

/** The data plane of a routes deployment, if its last command did not succeed. */
async function heldDataPlaneOf(work: Work, deploymentId: string): Promise<string | undefined> {
  const row = await work.tx
    .selectFrom("route_attachments as r")
    .innerJoin("deployments as d", "d.id", "r.data_plane_deployment_id")
    .select("d.id")
    .where("r.deployment_id", "=", deploymentId)
    .where("d.held_reason", "<>", "")
    .executeTakeFirst();
  return row?.id;
}

/** A command that a reconcile made names no publish; its deployment's owner is the one it carries. */
function publishIdOf(command: { productPublishId: string; ownerId: string }): string {
  return command.productPublishId || command.ownerId;
}

/** What leaves nothing at the agent: done, or the agent is gone for good (C3). */
const gone: readonly CommandState[] = ["SUCCEEDED", "LOST", "CANCELLED"];

/** Owner of data planes: their publishes show how they are. */
export function dataPlaneOwner(ports: () => EnginePorts): Owner {
  const publishesOf = async (work: Work, deploymentIds: readonly string[]): Promise<string[]> => {
    const rows = await work.tx
      .selectFrom("route_attachments as r")
      .innerJoin("publish_targets as t", "t.deployment_id", "r.deployment_id")
      .select("t.product_publish_id")
      .distinct()
      .where("r.data_plane_deployment_id", "in", [...deploymentIds])
      .execute();
    return rows.map((row) => row.product_publish_id);
  };
  return {
    async changed(work, commands) {
      const ended = commands
        .filter((command) => command.isRemoval && gone.includes(command.state))
        .map((command) => command.deploymentId);
      if (ended.length > 0) await work.tx.deleteFrom("data_planes").where("deployment_id", "in", ended).execute();
      for (const publishId of await publishesOf(
        work,
        commands.map((command) => command.deploymentId),
      )) {
        await touch(ports(), work, publishId);
      }
    },
    async observed(work, deploymentIds) {
      for (const publishId of await publishesOf(work, deploymentIds)) await touch(ports(), work, publishId);
    },
  };
}

async function targetChanged(work: Work, command: ChangedCommand, publishId: string): Promise<void> {
  const state = targetStateOf(command.state);
  await sql`
    UPDATE publish_targets SET reason = ${command.reason}, message = ${command.message}, updated_at = now(),
      state = CASE WHEN state = 'LIVE' AND ${state} <> 'FAILED' THEN 'LIVE' ELSE ${state} END -- O3
    WHERE product_publish_id = ${publishId} AND agent_id = ${command.agentId}
      AND (command_id = ${command.id} OR generation <= ${command.generation})`.execute(work.tx);
  if (command.state !== "SUCCEEDED") return;
  await sql`
    UPDATE route_attachments AS r SET serving_publish_id = p.id, serving_revision = v.number, serving_generation = ${command.generation}
    FROM product_publishes AS p JOIN product_revisions AS v ON v.id = p.revision_id
    WHERE r.deployment_id = ${command.deploymentId} AND p.id = ${publishId}
      AND r.serving_generation <= ${command.generation}`.execute(work.tx);
}

async function removalChanged(
  ports: EnginePorts,
  work: Work,
  command: ChangedCommand,
  publishId: string,
): Promise<void> {
  const isGone = gone.includes(command.state);
  const state: TargetState = isGone ? "UNPUBLISHED" : "UNPUBLISHING";
  await work.tx
    .updateTable("publish_targets")
    .set({ state, reason: command.reason, message: command.message, updated_at: sql`now()` })
    .where("product_publish_id", "=", publishId)
    .where("agent_id", "=", command.agentId)
    .where("deployment_id", "=", command.deploymentId)
    .execute();
  if (isGone) {
    await detached(ports, work, command.deploymentId, defaultLimits, { agentGone: command.state !== "SUCCEEDED" });
  }
}

/** Derives a publish's state from its targets (O1, O2) and notes the change. */
export async function settle(ports: EnginePorts, work: Work, publishId: string): Promise<void> {
  const publish = await work.tx
    .selectFrom("product_publishes as p")
    .select(["p.state", hasNewer.as("hasNewer")])
    .where("p.id", "=", publishId)
    .forUpdate("p")
    .executeTakeFirst();
  if (publish === undefined) return;
  const targets = await work.tx
    .selectFrom("publish_targets")
    .select(["state", "reason", "message"])
    .where("product_publish_id", "=", publishId)
    .execute();
  const before = publish.state as PublishState;
  if (before === "FAILED" && publish.hasNewer) return touch(ports, work, publishId); // O4
  const { state, because } = aggregate(
    before,
    targets.map((target) => ({ ...target, state: target.state as TargetState })),
  );
  const settled = await work.tx
    .updateTable("product_publishes")
    .set({
      state,
      reason: because?.reason ?? (targets.length === 0 && state === "PENDING" ? "NO_AGENT" : ""),
      message: because?.message ?? "",
      ...(state === "LIVE" ? { live_at: sql<Date>`coalesce(live_at, now())` } : {}),
    })
    .where("id", "=", publishId)
    .returning(sql<number>`extract(epoch FROM now() - deployed_at)::float8`.as("seconds"))
    .executeTakeFirst();
  if (state === "LIVE" && before !== "LIVE") work.after(() => ports.metrics?.published(settled?.seconds ?? 0));
  await touch(ports, work, publishId);
}

/** Notes that a publish looks different now. */
export async function touch(ports: EnginePorts, work: Work, publishId: string): Promise<void> {
  if (publishId === "") return;
  const row = await work.tx
    .updateTable("product_publishes")
    .set({ version: sql`version + 1`, updated_at: sql`now()` })
    .where("id", "=", publishId)
    .returning(["organisation_id", "cluster_id"])
    .executeTakeFirst();
  if (row === undefined) return;
  await ports.events.note(work, [
    { topic: "publish", subjectId: publishId, organisationId: row.organisation_id, clusterId: row.cluster_id },
  ]);
}
