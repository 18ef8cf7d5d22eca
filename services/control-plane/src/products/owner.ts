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
import { traceOutcomes } from "./publish-traces.ts";
import { aggregate, type PublishState, type TargetState, targetStateOf } from "./publish-states.ts";

/** Owner of routes deployments. `next` is told when an outcome may let a publish go on, or back. */
export function publishOwner(ports: () => EnginePorts, next: () => void): Owner {
  return {
    async changed(work, commands) {
      const removals = commands.filter((command) => command.isRemoval);
      await targetsChanged(
        work,
        commands.filter((command) => !command.isRemoval),
      );
      for (const command of removals) await removalChanged(ports(), work, command, publishIdOf(command));
      const goesOn = await settle(ports(), work, [...new Set(commands.map(publishIdOf))]);
      if (goesOn) work.after(next);
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
      await settle(ports(), work, [command.ownerId]);
      const dataPlane = await heldDataPlaneOf(work, command.deploymentId);
      if (dataPlane !== undefined) {
        const limits = { priority: defaultLimits.priority - 1 }; // before the routes that wait for it
        await again(ports(), work, dataPlane, { createdBy: "system", limits }); // O5
      }
    },
    async retired(work, agentId) {
      await settle(ports(), work, await forgetPlaces(work, agentId));
    },
    async progressed(work, commandIds) {
      const rows = await work.tx
        .selectFrom("commands")
        .select(["product_publish_id as productPublishId", "owner_id as ownerId"])
        .where("id", "in", commandIds)
        .execute();
      await touch(ports(), work, rows.map(publishIdOf));
    },
    async observed(work, deploymentIds) {
      await touch(ports(), work, await shownAt(work, { routes: deploymentIds }));
    },
  };
}

/** The publishes that show these deployments: the newest of each place, and what still serves there. */
async function shownAt(
  work: Work,
  by: { routes: readonly string[] } | { dataPlanes: readonly string[] },
): Promise<string[]> {
  const [column, ids] =
    "routes" in by ? (["deployment_id", by.routes] as const) : (["data_plane_deployment_id", by.dataPlanes] as const);
  const { rows } = await sql<{ id: string }>`
    WITH at AS (
      SELECT r.product_id, r.gateway_id, d.cluster_id, r.serving_publish_id
      FROM route_attachments AS r JOIN deployments AS d ON d.id = r.deployment_id
      WHERE ${sql.ref(`r.${column}`)} = ANY(${[...ids]}))
    SELECT newest.id FROM (SELECT DISTINCT product_id, gateway_id, cluster_id FROM at) AS p CROSS JOIN LATERAL (
      SELECT n.id FROM product_publishes AS n WHERE n.cluster_id = p.cluster_id AND n.gateway_id = p.gateway_id
        AND n.product_id = p.product_id AND n.deployed_at IS NOT NULL ORDER BY n.deployed_at DESC LIMIT 1) AS newest
    UNION SELECT serving_publish_id FROM at WHERE serving_publish_id <> '' ORDER BY id`.execute(work.tx);
  return rows.map((row) => row.id);
}

/** The data plane of a routes deployment, if its last command did not succeed. */
async function heldDataPlaneOf(work: Work, deploymentId: string): Promise<string | undefined> {
  const row = await work.tx
    .selectFrom("route_attachments as r")
    .innerJoin("deployments as d", "d.id", "r.data_plane_deployment_id")
    .select("d.id")
    .where("r.deployment_id", "=", deploymentId)
    .where("d.held_reason", "not in", ["", "AGENT_COPY"]) // its spec is the agent's alone
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
  return {
    async changed(work, commands) {
      const dataPlanes = commands.map((command) => command.deploymentId);
      const shown = await shownAt(work, { dataPlanes });
      const ended = commands
        .filter((command) => command.isRemoval && gone.includes(command.state))
        .map((command) => command.deploymentId);
      if (ended.length > 0) await work.tx.deleteFrom("data_planes").where("deployment_id", "in", ended).execute();
      await touch(ports(), work, shown);
    },
    async observed(work, dataPlanes) {
      await touch(ports(), work, await shownAt(work, { dataPlanes }));
    },
  };
}

/** Writes what these commands are at into the targets that they carry. */
async function targetsChanged(work: Work, commands: readonly ChangedCommand[]): Promise<void> {
  // Of several changes of one command in a transaction the last one counts.
  const rows = [...new Map(commands.map((command) => [command.id, command])).values()];
  if (rows.length === 0) return;
  const column = <T>(read: (command: ChangedCommand) => T): T[] => rows.map(read);
  await sql`
    UPDATE publish_targets AS t SET reason = n.reason, message = n.message, updated_at = now(),
      state = CASE WHEN t.state = 'LIVE' AND n.state <> 'FAILED' THEN 'LIVE' ELSE n.state END -- O3
    FROM unnest(${column((c) => c.id)}::text[], ${column(publishIdOf)}::text[], ${column((c) => c.agentId)}::text[],
      ${column((c) => c.generation)}::int[], ${column((c) => targetStateOf(c.state))}::text[],
      ${column((c) => c.reason)}::text[], ${column((c) => c.message)}::text[])
      AS n (id, publish_id, agent_id, generation, state, reason, message)
    WHERE t.product_publish_id = n.publish_id AND t.agent_id = n.agent_id
      AND (t.command_id = n.id OR t.generation <= n.generation)`.execute(work.tx);
  await served(
    work,
    rows.filter((command) => command.state === "SUCCEEDED"),
  );
}

/** Agents' data planes answer with these publishes now. An older word never overwrites a newer one. */
async function served(work: Work, commands: readonly ChangedCommand[]): Promise<void> {
  if (commands.length === 0) return;
  // At most one command of a deployment succeeds in a transaction: the next one is claimed after it.
  await sql`
    UPDATE route_attachments AS r SET serving_publish_id = p.id, serving_revision = v.number, serving_generation = n.generation
    FROM unnest(${commands.map((c) => c.deploymentId)}::text[], ${commands.map(publishIdOf)}::text[],
      ${commands.map((c) => c.generation)}::int[]) AS n (deployment_id, publish_id, generation)
    JOIN product_publishes AS p ON p.id = n.publish_id JOIN product_revisions AS v ON v.id = p.revision_id
    WHERE r.deployment_id = n.deployment_id AND r.serving_generation <= n.generation`.execute(work.tx);
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

/**
 * Derives publishes' states from their targets (O1, O2) and notes the changes. Resolves with whether one of them has
 * agents to come, or is to be taken back.
 */
export async function settle(ports: EnginePorts, work: Work, publishIds: readonly string[]): Promise<boolean> {
  const ids = publishIds.filter((id) => id !== "");
  if (ids.length === 0) return false;
  const publishes = await work.tx
    .selectFrom("product_publishes as p")
    .select(["p.id", "p.state", "p.to_come", "p.auto_revert", hasNewer.as("hasNewer")])
    .where("p.id", "in", ids)
    .orderBy("p.id")
    .forUpdate("p")
    .execute();
  // After the lock: whoever held it has written targets too.
  const targets = await work.tx
    .selectFrom("publish_targets")
    .select(["product_publish_id", "state", "reason", "message"])
    .where("product_publish_id", "in", ids)
    .orderBy("agent_id")
    .execute();
  const targetsOf = Map.groupBy(targets, (target) => target.product_publish_id);
  const settled = publishes.flatMap((publish) => {
    const before = publish.state as PublishState;
    if (before === "FAILED" && publish.hasNewer) return []; // O4
    const own = (targetsOf.get(publish.id) ?? []).map((target) => ({ ...target, state: target.state as TargetState }));
    const { state, because } = aggregate(before, own, publish.to_come);
    const waitsFor = own.length === 0 ? "NO_AGENT" : "ROLLING_OUT";
    const reason = because?.reason ?? (state === "PENDING" ? waitsFor : "");
    return [{ id: publish.id, state, reason, message: because?.message ?? "" }];
  });
  const { rows } = await sql<NotedPublish & { state: string; reason: string; seconds: number | null }>`
    UPDATE product_publishes AS p SET version = p.version + 1, updated_at = now(), state = coalesce(n.state, p.state),
      reason = coalesce(n.reason, p.reason), message = coalesce(n.message, p.message),
      live_at = CASE WHEN n.state = 'LIVE' THEN coalesce(p.live_at, now()) ELSE p.live_at END
    FROM unnest(${ids}::text[]) AS one (id) LEFT JOIN unnest(${settled.map((one) => one.id)}::text[],
      ${settled.map((one) => one.state)}::text[], ${settled.map((one) => one.reason)}::text[],
      ${settled.map((one) => one.message)}::text[]) AS n (id, state, reason, message) ON n.id = one.id
    WHERE p.id = one.id RETURNING p.id, p.organisation_id, p.cluster_id, p.state, p.reason,
      extract(epoch FROM now() - p.deployed_at)::float8 AS seconds`.execute(work.tx);
  const liveBefore = new Set(publishes.filter((one) => one.state === "LIVE").map((one) => one.id));
  const nowLive = rows.filter((row) => row.state === "LIVE" && !liveBefore.has(row.id));
  work.after(() => nowLive.forEach((row) => ports.metrics?.published(row.seconds ?? 0)));
  const before = new Map(publishes.map((one) => [one.id, one.state]));
  await traceOutcomes(
    ports,
    work,
    rows.filter((row) => before.get(row.id) !== row.state),
  );
  await notePublishes(ports, work, rows);
  const failed = new Set(rows.filter((row) => row.state === "FAILED").map((row) => row.id));
  return publishes.some((one) => (failed.has(one.id) ? one.auto_revert : one.to_come > 0));
}

/** Counts and notes that publishes look different now. */
export async function touch(ports: EnginePorts, work: Work, publishIds: readonly string[]): Promise<void> {
  const ids = publishIds.filter((id) => id !== "");
  if (ids.length === 0) return;
  // In order of id (T2): an UPDATE alone locks in the order of its plan.
  const { rows } = await sql<NotedPublish>`
    UPDATE product_publishes AS p SET version = p.version + 1, updated_at = now()
    FROM (SELECT id FROM product_publishes WHERE id = ANY(${ids}) ORDER BY id FOR NO KEY UPDATE) AS held
    WHERE p.id = held.id RETURNING p.id, p.organisation_id, p.cluster_id`.execute(work.tx);
  await notePublishes(ports, work, rows);
}

interface NotedPublish {
  id: string;
  organisation_id: string;
  cluster_id: string;
}

/** Notes for watches that publishes were made or changed. */
export async function notePublishes(ports: EnginePorts, work: Work, rows: readonly NotedPublish[]): Promise<void> {
  await ports.events.note(
    work,
    rows.map((row) => ({
      ...{ topic: "publish" as const, subjectId: row.id },
      ...{ organisationId: row.organisation_id, clusterId: row.cluster_id },
    })),
  );
}
