/**
 * The keys of an agent: read from a request, and put in place of those before.
 *
 * K1: an agent has one live key at any time; the switch is one statement.
 * K2: a key that was replaced never becomes the agent's again: it may have been
 *     copied.
 */
import { type PublicJwk, thumbprint, validatePublicJwk } from "@bowline/auth";
import { problem, type Violation } from "@bowline/kernel";
import { sql } from "kysely";
import type { Tx } from "../platform/transactions.ts";
import { type AgentRow, goneStates } from "./model.ts";

export interface Keys {
  signing: PublicJwk;
  sealing: PublicJwk;
  /** Of the signing key. */
  thumbprint: string;
}

/** Replaced keys that are remembered per agent: who comes with an older one is told less, and refused as well. */
const rememberedKeys = 32;

/** Throws INVALID_ARGUMENT. */
export async function readKeys(request: { signingKey: string; sealingKey: string }): Promise<Keys> {
  const signing = validatePublicJwk(request.signingKey, "Ed25519");
  const sealing = validatePublicJwk(request.sealingKey, "X25519");
  const violations: Violation[] = [];
  if (signing === undefined) violations.push({ field: "signing_key", description: "A public Ed25519 key as a JWK." });
  if (sealing === undefined) violations.push({ field: "sealing_key", description: "A public X25519 key as a JWK." });
  if (signing === undefined || sealing === undefined) throw problem("INVALID_ARGUMENT", undefined, { violations });
  return { signing, sealing, thumbprint: await thumbprint(signing) };
}

/** The name of the live agent that has this key. */
export async function ownerOfKey(tx: Tx, keyThumbprint: string): Promise<string | undefined> {
  const owner = await tx
    .selectFrom("agents")
    .select("name")
    .where("signing_thumbprint", "=", keyThumbprint)
    .where("state", "not in", goneStates)
    .executeTakeFirst();
  return owner?.name;
}

/** K2. */
export async function hadKey(tx: Tx, agentId: string, keyThumbprint: string): Promise<boolean> {
  const row = await tx
    .selectFrom("replaced_keys")
    .select("agent_id")
    .where("agent_id", "=", agentId)
    .where("thumbprint", "=", keyThumbprint)
    .executeTakeFirst();
  return row !== undefined;
}

/** K1. The caller holds the agent's row and has looked for other owners of the key. */
export async function replaceKeys(
  tx: Tx,
  before: Pick<AgentRow, "id" | "signing_key" | "signing_thumbprint">,
  keys: Keys,
  because: "REKEY" | "ROTATION",
): Promise<void> {
  await tx
    .insertInto("replaced_keys")
    .values({
      agent_id: before.id,
      thumbprint: before.signing_thumbprint,
      signing_key: JSON.stringify(before.signing_key),
      because,
    })
    .execute();
  await sql`
    DELETE FROM replaced_keys WHERE agent_id = ${before.id} AND thumbprint IN (
      SELECT thumbprint FROM replaced_keys WHERE agent_id = ${before.id}
      ORDER BY replaced_at DESC OFFSET ${rememberedKeys})`.execute(tx);
  await tx
    .updateTable("agents")
    .set({
      signing_key: JSON.stringify(keys.signing),
      signing_thumbprint: keys.thumbprint,
      sealing_key: JSON.stringify(keys.sealing),
      version: sql`version + 1`,
      updated_at: sql`now()`,
    })
    .where("id", "=", before.id)
    .execute();
}
