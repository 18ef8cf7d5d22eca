/** Registration tokens in SQL. */
import { problem } from "@bowline/kernel";
import { sql } from "kysely";
import { cutPage, pageKey, pageSize } from "../platform/pages.ts";
import { type Db, nowPlus, type Tx } from "../platform/transactions.ts";
import type { TokenRow } from "./model.ts";

const columns = [
  "id",
  "cluster_id",
  "max_uses",
  "uses",
  "rekey_agent_id",
  "expires_at",
  "revoked_at",
  "created_by",
  "created_at",
] as const;

function select(db: Db | Tx) {
  return db
    .selectFrom("registration_tokens")
    .select(columns)
    .select([
      sql<boolean>`expires_at <= now()`.as("expired"),
      sql<string[]>`coalesce(
        (SELECT jsonb_agg(u.agent_id ORDER BY u.agent_id) FROM registration_token_uses AS u
         WHERE u.token_id = registration_tokens.id), '[]')`.as("agent_ids"),
    ]);
}

/** Throws NOT_FOUND. */
export async function getToken(db: Db | Tx, id: string): Promise<TokenRow> {
  const row = await select(db).where("id", "=", id).executeTakeFirst();
  if (row === undefined) throw problem("NOT_FOUND", `There is no registration token ${id}.`);
  return row;
}

/** Newest first: ids sort by the millisecond of their making. */
export async function listTokens(db: Db, clusterId: string, page: { pageSize: number; pageToken: string }) {
  const size = pageSize(page.pageSize);
  const [after] = pageKey("registration-tokens", page.pageToken, 1) ?? [];
  let query = select(db).where("cluster_id", "=", clusterId);
  if (after !== undefined) query = query.where("id", "<", after);
  const rows: TokenRow[] = await query
    .orderBy("id", "desc")
    .limit(size + 1)
    .execute();
  return cutPage(rows, size, "registration-tokens", (row) => [row.id]);
}

export async function insertToken(
  tx: Tx,
  token: {
    id: string;
    clusterId: string;
    hash: Uint8Array;
    maxUses: number;
    lifeMs: number;
    createdBy: string;
    rekeyAgentId: string | undefined;
  },
): Promise<void> {
  await tx
    .insertInto("registration_tokens")
    .values({
      id: token.id,
      cluster_id: token.clusterId,
      secret_hash: Buffer.from(token.hash),
      max_uses: token.maxUses,
      expires_at: nowPlus(token.lifeMs),
      created_by: token.createdBy,
      rekey_agent_id: token.rekeyAgentId ?? null,
    })
    .execute();
}

/** Ends tokens that are not ended: one, or all of a cluster. */
export async function revokeTokens(tx: Tx, which: { id: string } | { clusterId: string }): Promise<void> {
  const query = tx
    .updateTable("registration_tokens")
    .set({ revoked_at: sql<Date>`now()` })
    .where("revoked_at", "is", null);
  await ("id" in which ? query.where("id", "=", which.id) : query.where("cluster_id", "=", which.clusterId)).execute();
}
