/**
 * What publishing and enrolment ask of a cluster, inside their transactions.
 *
 * E3: the cluster's row is the first lock: enrolment takes it FOR UPDATE,
 *     publishing FOR SHARE. Neither passes a deletion that has begun, nor does
 *     publishing place anything at an agent that is leaving for good.
 */
import type { ClusterPolicy } from "@bowline/contract/clusters";
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { type Principal, seesAll } from "../platform/context.ts";
import type { Db, Tx } from "../platform/transactions.ts";
import { type ClusterRow, policyOf, tokenState } from "./model.ts";
import { everyone, lockCluster } from "./queries.ts";

export interface LockedCluster {
  id: string;
  name: string;
  runtime: string;
  region: string;
  labels: Record<string, string>;
  /** A restriction of what agents report; empty: all of it. */
  capabilities: string[];
  policy: ClusterPolicy;
  isDefault: boolean;
  isActive: boolean;
  deleting: boolean;
}

function lockedOf(row: ClusterRow): LockedCluster {
  return {
    id: row.id,
    name: row.name,
    runtime: row.runtime,
    region: row.region,
    labels: row.labels,
    capabilities: row.capabilities,
    policy: policyOf(row.policy),
    isDefault: row.is_default,
    isActive: row.is_active,
    deleting: row.deleting,
  };
}

/**
 * Locks a cluster FOR SHARE for new work of an organisation (the principal's,
 * if none is named). Throws NOT_FOUND where the principal may not know of it,
 * CLUSTER_NOT_GRANTED where the organisation lacks the grant, CLUSTER_DELETING,
 * CLUSTER_INACTIVE. An admin publishes for its own organisation without a grant.
 */
export async function lockClusterForPublish(
  tx: Tx,
  idOrName: string,
  principal: Principal,
  organisationId?: string,
): Promise<LockedCluster> {
  const row = await lockCluster(tx, idOrName, "share");
  const unknown = () => problem("NOT_FOUND", `There is no cluster ${idOrName}.`);
  if (row === undefined) throw unknown();
  const has = (organisation: string) => row.grants.includes(organisation) || row.grants.includes(everyone);
  if (!seesAll(principal) && !has(principal.organisationId)) throw unknown();
  if (organisationId !== undefined && organisationId !== principal.organisationId && !has(organisationId)) {
    throw problem("CLUSTER_NOT_GRANTED", `The cluster ${row.name} is not granted to the organisation.`);
  }
  if (row.deleting) throw problem("CLUSTER_DELETING", `The cluster ${row.name} is being deleted.`);
  if (!row.is_active) throw problem("CLUSTER_INACTIVE", `The cluster ${row.name} is not active.`);
  return lockedOf(row);
}

/** Locks a cluster FOR SHARE for a change of what is in it; undefined where there is none. */
export async function lockClusterForChange(tx: Tx, clusterId: string): Promise<LockedCluster | undefined> {
  const row = await lockCluster(tx, clusterId, "share");
  return row === undefined ? undefined : lockedOf(row);
}

/**
 * Locks a cluster FOR UPDATE, so that nothing is placed at an agent that leaves it: what is being published there is
 * seen, and what comes later sees that the agent is gone. Undefined where there is none.
 */
export async function lockClusterForLeaving(tx: Tx, clusterId: string): Promise<LockedCluster | undefined> {
  const row = await lockCluster(tx, clusterId, "update");
  return row === undefined ? undefined : lockedOf(row);
}

/** The hash of a registration token's secret; undefined for an unknown id. */
export function findRegistrationToken(
  db: Db,
  tokenId: string,
): Promise<{ secret_hash: Buffer; cluster_id: string } | undefined> {
  return db
    .selectFrom("registration_tokens")
    .select(["secret_hash", "cluster_id"])
    .where("id", "=", tokenId)
    .executeTakeFirst();
}

/** Locks a token's cluster FOR UPDATE and tells where the token stands then. Undefined where the token is gone. */
export async function lockForEnrolment(
  tx: Tx,
  tokenId: string,
): Promise<
  | {
      cluster: LockedCluster;
      state: ReturnType<typeof tokenState>;
      createdBy: string;
      expiresAt: Date;
      /** The agent that gets new keys; null: the token enrols a new one. */
      rekeyAgentId: string | null;
    }
  | undefined
> {
  const owner = await tx
    .selectFrom("registration_tokens")
    .select("cluster_id")
    .where("id", "=", tokenId)
    .executeTakeFirst();
  const row = owner === undefined ? undefined : await lockCluster(tx, owner.cluster_id, "update");
  if (row === undefined) return undefined;
  const token = await tx
    .selectFrom("registration_tokens")
    .select(["revoked_at", "uses", "max_uses", "created_by", "expires_at", "rekey_agent_id"])
    .select(sql<boolean>`expires_at <= now()`.as("expired"))
    .where("id", "=", tokenId)
    .executeTakeFirst();
  if (token === undefined) return undefined;
  return {
    cluster: lockedOf(row),
    state: tokenState(token),
    createdBy: token.created_by,
    expiresAt: token.expires_at,
    rekeyAgentId: token.rekey_agent_id,
  };
}

/** Spends one use. False where the token has none left, is over or was ended: then nothing changed. */
export async function spendToken(tx: Tx, tokenId: string): Promise<boolean> {
  const { numUpdatedRows } = await tx
    .updateTable("registration_tokens")
    .set({ uses: sql`uses + 1` })
    .where("id", "=", tokenId)
    .where(sql<boolean>`uses < max_uses`)
    .where(sql<boolean>`expires_at > now()`)
    .where("revoked_at", "is", null)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

export async function recordTokenUse(tx: Tx, tokenId: string, agentId: string, thumbprint: string): Promise<void> {
  await tx.insertInto("registration_token_uses").values({ token_id: tokenId, agent_id: agentId, thumbprint }).execute();
}

/** The newest agent that this key enrolled with this token, and whether that was less than `withinMs` ago. */
export function tokenUseOf(
  tx: Tx,
  tokenId: string,
  thumbprint: string,
  withinMs: number,
): Promise<{ agent_id: string; recent: boolean } | undefined> {
  return tx
    .selectFrom("registration_token_uses")
    .select("agent_id")
    .select(sql<boolean>`used_at > now() - make_interval(secs => ${withinMs / 1000})`.as("recent"))
    .where("token_id", "=", tokenId)
    .where("thumbprint", "=", thumbprint)
    .orderBy("used_at", "desc")
    .executeTakeFirst();
}
