/**
 * The server's signing keys: in Postgres, encrypted by a key outside it. A key
 * is published before it is used and stays readable after; all by the
 * database's time, so that replicas agree.
 */
import {
  type AccessTokenClaims,
  decrypt,
  encrypt,
  type EncryptionKey,
  generateKey,
  issueAccessToken,
  type PrivateJwk,
  type PublicJwk,
  readKeyId,
  type SigningKey,
  verifyAccessToken,
} from "@bowline/auth";
import { newId, problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Db } from "../platform/transactions.ts";

/** A replica that reads keys this often has seen a new one before its first use. */
const publishBeforeUseMs = 600_000;
/** A key signs for this long, then the next one does. */
const signForMs = 7 * 86_400_000;
/** Verifiable after that for longer than any token lives. */
const keepAfterMs = 86_400_000;
/** Keys that do not fit are read again, at most this often: anybody may send an unknown key id. */
const againMs = 1_000;
/** How long keys are remembered here. Below `publishBeforeUseMs`. */
const cacheMs = 60_000;

export interface AccessTokens {
  issue(claims: Omit<AccessTokenClaims, "installationId">): Promise<string>;
  /** Throws UNAUTHENTICATED or TOKEN_EXPIRED. */
  verify(jwt: string): Promise<AccessTokenClaims>;
}

interface Keys {
  readAt: number;
  incarnation: number;
  signing: SigningKey;
  publicOf: Map<string, PublicJwk>;
  /** Database time minus this machine's. */
  offsetMs: number;
}

export function createAccessTokens(db: Db, encryption: EncryptionKey, installationId: string): AccessTokens {
  let cached: Promise<Keys> | undefined;

  async function keys(fits: (known: Keys) => boolean = () => true): Promise<Keys> {
    const known = await cached?.catch(() => undefined);
    const age = known === undefined ? Infinity : performance.now() - known.readAt;
    if (known !== undefined && age < (fits(known) ? cacheMs : againMs)) return known;
    cached = read(db, encryption);
    return cached;
  }

  return {
    async issue(claims) {
      // Another incarnation: the keys of the history before are no more.
      const { signing, offsetMs } = await keys((known) => known.incarnation === claims.incarnation);
      return issueAccessToken(signing, { ...claims, installationId }, { now: Date.now() + offsetMs });
    },
    async verify(jwt) {
      const kid = readKeyId(jwt);
      const { publicOf, offsetMs } = await keys((known) => kid === undefined || known.publicOf.has(kid));
      const verdict = await verifyAccessToken(jwt, (kid) => publicOf.get(kid), {
        installationId,
        now: Date.now() + offsetMs,
      });
      if (!verdict.ok) throw problem(verdict.reason, verdict.message);
      return verdict.claims;
    },
  };
}

async function read(db: Db, encryption: EncryptionKey): Promise<Keys> {
  return db.transaction().execute(async (tx) => {
    await sql`SELECT pg_advisory_xact_lock(7310002)`.execute(tx); // one replica makes the next key
    const rows = await tx
      .selectFrom("signing_keys")
      .selectAll()
      .where("usable_until", ">", sql<Date>`now() - make_interval(secs => ${keepAfterMs / 1000})`)
      .orderBy("usable_from", "desc")
      .execute();
    const { rows: times } = await sql<{ now: Date }>`SELECT now() AS now`.execute(tx);
    const now = times[0]?.now ?? new Date();
    const newest = rows[0];
    if (newest === undefined || newest.usable_until.getTime() - now.getTime() < publishBeforeUseMs * 2) {
      rows.unshift(
        await makeKey(tx, encryption, newest === undefined ? now : new Date(now.getTime() + publishBeforeUseMs)),
      );
    }
    const current = rows.find((row) => row.usable_from <= now) ?? rows[0];
    if (current === undefined) throw problem("INTERNAL");
    const privateJwk = JSON.parse(
      Buffer.from(decrypt([encryption], current.private_encrypted, context(current.id))).toString(),
    ) as PrivateJwk;
    const { incarnation } = await tx.selectFrom("installation").select("incarnation").executeTakeFirstOrThrow();
    return {
      readAt: performance.now(),
      incarnation,
      signing: { kid: current.id, privateJwk },
      publicOf: new Map(rows.map((row) => [row.id, row.public_jwk as PublicJwk])),
      offsetMs: now.getTime() - Date.now(),
    };
  });
}

async function makeKey(tx: Db, encryption: EncryptionKey, from: Date) {
  const pair = await generateKey("Ed25519");
  const id = newId("key");
  return tx
    .insertInto("signing_keys")
    .values({
      id,
      public_jwk: JSON.stringify(pair.publicJwk),
      private_encrypted: Buffer.from(encrypt(encryption, Buffer.from(JSON.stringify(pair.privateJwk)), context(id))),
      usable_from: from,
      usable_until: new Date(from.getTime() + signForMs),
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

function context(id: string): string {
  return `signing_keys/${id}`;
}
