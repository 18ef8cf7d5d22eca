/**
 * The rows of deployments: what is desired, one generation after another, and
 * what was observed.
 *
 * E3: whoever changes a deployment or ends one of its commands locks its row first.
 * E5: a generation's spec is written once and never changed.
 */
import { createHash } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { type Deployment, Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { insertRows, type RowOf } from "@bowline/db";
import { newId, problem, registryOf } from "@bowline/kernel";
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";

export type DesiredName = "RUNNING" | "STOPPED" | "PAUSED" | "ABSENT";

/** What a slice wants of one deployment. */
export interface Wish {
  /** An existing deployment, or undefined for a new one. */
  deploymentId: string | undefined;
  agentId: string;
  clusterId: string;
  organisationId: string;
  /** Which slice owns it, and which of its rows. */
  kind: string;
  ownerId: string;
  /** The new generation is above this one too: what the agent has of another history (E5). */
  above?: number;
  /** The spec without id and generation; those are filled in. `selfId` may be referred to by `build`. */
  build: (deploymentId: string, generation: number) => Omit<Partial<Deployment>, "$typeName" | "$unknown">;
}

export interface WishedDeployment {
  id: string;
  generation: number;
  digest: string;
  isNew: boolean;
  desired: DesiredName;
  removeVolumes: boolean;
}

/** Ids for wishes whose deployments refer to one another before they exist. */
export function newDeploymentId(): string {
  return newId("deployment");
}

/**
 * Adds a generation to each deployment, in order of id, creating those that don't
 * exist. `deploymentId` may be a fresh id of `newDeploymentId`. Throws
 * DEPLOYMENT_ABSENT where the deployment is removed for good and the wish is anything
 * but a removal that removes more. `locked`: all that exist, where the caller has locked them.
 */
export async function addGenerations(
  tx: Tx,
  wishes: readonly Wish[],
  locked?: ReadonlyMap<string, LockedDeployment>,
): Promise<WishedDeployment[]> {
  const known =
    locked ??
    (await lockDeployments(
      tx,
      wishes.flatMap((wish) => wish.deploymentId ?? []),
    ));
  const results: WishedDeployment[] = [];
  const added: RowOf<typeof deploymentColumns>[] = [];
  const changed: { id: string; desired: DesiredName; generation: number; ownerId: string }[] = [];
  const generations: RowOf<typeof generationColumns>[] = [];
  for (const wish of wishes) {
    const id = wish.deploymentId ?? newDeploymentId();
    const before = known.get(id);
    const generation = Math.max(before?.generation ?? 0, wish.above ?? 0) + 1;
    const spec = create(DeploymentSchema, { ...wish.build(id, generation), id, generation });
    const desired = desiredName(spec.desired);
    if (before?.desired === "ABSENT" && !(desired === "ABSENT" && (spec.removeVolumes || wish.above !== undefined)))
      throw problem("DEPLOYMENT_ABSENT");
    const bytes = Buffer.from(toBinary(DeploymentSchema, spec));
    const digest = createHash("sha256").update(bytes).digest("hex");
    if (before === undefined) {
      added.push({
        id,
        agent_id: wish.agentId,
        cluster_id: wish.clusterId,
        organisation_id: wish.organisationId,
        kind: wish.kind,
        owner_id: wish.ownerId,
        desired,
        generation,
      });
    } else changed.push({ id, desired, generation, ownerId: wish.ownerId });
    generations.push({
      deployment_id: id,
      generation,
      spec: bytes,
      digest,
      secrets: JSON.stringify(spec.secretVersions),
      registries: JSON.stringify(registriesOf(spec)),
    });
    results.push({ id, generation, digest, isNew: before === undefined, desired, removeVolumes: spec.removeVolumes });
  }
  await insertRows(tx, "deployments", deploymentColumns, added);
  if (changed.length > 0) {
    // The next enqueue clears HELD (G1), and what differs from a new wish is not drift yet.
    await sql`
      UPDATE deployments AS d SET desired = n.desired, generation = n.generation, owner_id = n.owner_id,
        held_reason = '', drifted = false, drift_observations = 0, updated_at = now()
      FROM unnest(${changed.map((one) => one.id)}::text[], ${changed.map((one) => one.desired)}::text[],
        ${changed.map((one) => one.generation)}::int[], ${changed.map((one) => one.ownerId)}::text[])
        AS n (id, desired, generation, owner_id)
      WHERE d.id = n.id`.execute(tx);
  }
  await insertRows(tx, "deployment_generations", generationColumns, generations); // E5
  return results;
}

/** Hosts, each once. */
function registriesOf({ workloads }: Deployment): string[] {
  return [...new Set(workloads.flatMap(({ image }) => (image === "" ? [] : registryOf(image))))].toSorted();
}

const deploymentColumns = {
  text: ["id", "agent_id", "cluster_id", "organisation_id", "kind", "owner_id", "desired"],
  int: ["generation"],
} as const;
const generationColumns = {
  text: ["deployment_id", "digest"],
  int: ["generation"],
  bytea: ["spec"],
  jsonb: ["secrets", "registries"],
} as const;

export interface LockedDeployment {
  id: string;
  agentId: string;
  clusterId: string;
  organisationId: string;
  generation: number;
  desired: DesiredName;
  isAbsent: boolean;
}

/** Locks deployments FOR UPDATE in order of id (T2). Unknown ids are missing in the answer. */
export async function lockDeployments(tx: Tx, ids: readonly string[]): Promise<Map<string, LockedDeployment>> {
  if (ids.length === 0) return new Map();
  const rows = await tx
    .selectFrom("deployments")
    .select(["id", "agent_id", "cluster_id", "organisation_id", "generation", "desired", "is_absent"])
    .where("id", "=", sql<string>`any(${[...new Set(ids)]})`)
    .orderBy("id")
    .forUpdate()
    .execute();
  return new Map(
    rows.map((row) => [
      row.id,
      {
        id: row.id,
        agentId: row.agent_id,
        clusterId: row.cluster_id,
        organisationId: row.organisation_id,
        generation: row.generation,
        desired: row.desired as DesiredName,
        isAbsent: row.is_absent,
      },
    ]),
  );
}

/** Repairs of these stop, each for its reason, until the next enqueue; what is desired stays. The caller holds their rows. */
export async function hold(tx: Tx, reasons: ReadonlyMap<string, string>): Promise<void> {
  await sql`
    UPDATE deployments AS d SET held_reason = n.reason
    FROM unnest(${[...reasons.keys()]}::text[], ${[...reasons.values()]}::text[]) AS n (id, reason)
    WHERE d.id = n.id`.execute(tx);
}

/** Agents have converged these to these generations. An older word never overwrites a newer one. The caller holds their rows. */
export async function recordConverged(
  tx: Tx,
  converged: readonly { deploymentId: string; generation: number }[],
): Promise<void> {
  if (converged.length === 0) return;
  await sql`
    UPDATE deployments AS d
    SET observed_generation = n.generation, observed_digest = g.digest, drifted = false, drift_observations = 0,
        is_absent = d.is_absent OR (d.desired = 'ABSENT' AND d.generation = n.generation), updated_at = now()
    FROM (
      SELECT id, max(generation) AS generation FROM unnest(
        ${converged.map((one) => one.deploymentId)}::text[], ${converged.map((one) => one.generation)}::int[]) AS t (id, generation)
      GROUP BY id) AS n
    -- By both columns: without the fence (OFFSET) a plan reads all generations of each.
    CROSS JOIN LATERAL (
      SELECT digest FROM deployment_generations WHERE deployment_id = n.id AND generation = n.generation OFFSET 0) AS g
    WHERE d.id = n.id AND d.observed_generation <= n.generation`.execute(tx);
}

/**
 * Takes over, from an agent with another history, a generation whose bytes only the agent has: what is wanted is
 * what is there. The next wish is above it. The caller holds the deployment's row.
 */
export async function adoptGeneration(
  tx: Tx,
  adopted: { deploymentId: string; agentGeneration: number; agentDigest: string },
  heldReason: string,
): Promise<void> {
  const { deploymentId, agentGeneration: generation, agentDigest: digest } = adopted;
  const { generation: newest } = await tx
    .updateTable("deployments")
    .set({
      generation: sql<number>`greatest(generation + 1, ${generation})`,
      held_reason: heldReason,
      drifted: false,
      drift_observations: 0,
      updated_at: sql`now()`,
    })
    .where("id", "=", deploymentId)
    .returning("generation")
    .executeTakeFirstOrThrow();
  await tx
    .insertInto("deployment_generations")
    .values({ deployment_id: deploymentId, generation: newest, spec: Buffer.alloc(0), digest })
    .execute();
  await tx
    .updateTable("deployments")
    .set({ observed_generation: newest, observed_digest: digest })
    .where("id", "=", deploymentId)
    .execute();
}

/** Locks what an agent has that is not known to be gone, in order of id (T2), and returns the ids. */
export async function lockPresent(tx: Tx, agentId: string): Promise<string[]> {
  const rows = await tx
    .selectFrom("deployments")
    .select("id")
    .where("agent_id", "=", agentId)
    .where("is_absent", "=", false)
    .orderBy("id")
    .forUpdate()
    .execute();
  return rows.map((row) => row.id);
}

/** The host of these deployments is gone for good, and they with it. Absent is final. */
export async function settleAbsent(tx: Tx, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  await tx
    .updateTable("deployments")
    .set({ desired: "ABSENT", is_absent: true, held_reason: "", drifted: false, updated_at: sql`now()` })
    .where("id", "in", [...ids])
    .execute();
  await tx
    .deleteFrom("instances")
    .where("deployment_id", "in", [...ids])
    .execute();
}

/**
 * What runs of these deployments is not known any more: another host has them now. Returns those that are to be there,
 * in order of id. The caller has locked them.
 */
export async function forgetObserved(tx: Tx, ids: readonly string[]): Promise<string[]> {
  if (ids.length === 0) return [];
  await tx
    .deleteFrom("instances")
    .where("deployment_id", "in", [...ids])
    .execute();
  const rows = await tx
    .updateTable("deployments")
    .set({ observed_generation: 0, observed_digest: "", drifted: false, drift_observations: 0, updated_at: sql`now()` })
    .where("id", "in", [...ids])
    .where("desired", "<>", "ABSENT")
    .returning("id")
    .execute();
  return rows.map((row) => row.id).toSorted();
}

/** Whatever number the next observations have, they are newer than these. The caller has locked them. */
export async function restartObservations(tx: Tx, ids: readonly string[]): Promise<void> {
  await tx
    .updateTable("instances")
    .set({ observation: 0 })
    .where("deployment_id", "in", [...ids])
    .execute();
}

export function desiredName(desired: Deployment_Desired): DesiredName {
  switch (desired) {
    case Deployment_Desired.STOPPED:
      return "STOPPED";
    case Deployment_Desired.PAUSED:
      return "PAUSED";
    case Deployment_Desired.ABSENT:
      return "ABSENT";
    default:
      return "RUNNING";
  }
}
