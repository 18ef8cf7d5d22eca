/**
 * The newest wish of deployments, as it is converged anew.
 *
 * N1: read under the lock of the deployment's row, or a newer wish that commits
 *     meanwhile would be followed by an older one.
 */
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";
import type { DesiredName, LockedDeployment } from "./store.ts";

export interface NewestWish extends LockedDeployment {
  kind: string;
  ownerId: string;
  /** Name of its agent. */
  agent: string;
  createdAt: Date;
  observedGeneration: number;
  /** Empty: only the agent has it. */
  spec: Buffer;
  /** When this transaction began: what it changes is of this time. */
  now: Date;
}

/** Those that nobody else has locked are locked, in order of id (T2); the others are missing, as unknown ids are. */
export function lockNewestFree(tx: Tx, ids: readonly string[]): Promise<Map<string, NewestWish>> {
  return read(tx, ids, (query) => query.forUpdate("d").skipLocked());
}

/** The caller has locked them (N1). */
export function newestWishes(tx: Tx, ids: readonly string[]): Promise<Map<string, NewestWish>> {
  return read(tx, ids, (query) => query);
}

function select(tx: Tx, ids: readonly string[]) {
  return tx
    .selectFrom("deployments as d")
    .innerJoin("agents as a", "a.id", "d.agent_id")
    .innerJoin("deployment_generations as g", (join) =>
      // A wish that commits while this statement runs makes the row vanish from it: it is not free.
      join.onRef("g.deployment_id", "=", "d.id").onRef("g.generation", "=", "d.generation"),
    )
    .select([
      "d.id",
      "d.agent_id as agentId",
      "d.cluster_id as clusterId",
      "d.organisation_id as organisationId",
      "d.generation",
      sql<DesiredName>`d.desired`.as("desired"),
      "d.is_absent as isAbsent",
      "d.kind",
      "d.owner_id as ownerId",
      "a.name as agent",
      "d.created_at as createdAt",
      "d.observed_generation as observedGeneration",
      "g.spec",
      sql<Date>`now()`.as("now"),
    ])
    .where("d.id", "=", sql<string>`any(${[...new Set(ids)]})`)
    .orderBy("d.id");
}

async function read(
  tx: Tx,
  ids: readonly string[],
  lock: (query: ReturnType<typeof select>) => ReturnType<typeof select>,
): Promise<Map<string, NewestWish>> {
  if (ids.length === 0) return new Map();
  const rows = await lock(select(tx, ids)).execute();
  return new Map(rows.map((row) => [row.id, row]));
}
