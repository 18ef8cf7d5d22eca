/**
 * The server's signing keys: in Postgres, encrypted by a key outside it.
 *
 * K1: a key is published before it is used, for longer than any replica goes
 *     without reading the keys, and stays readable after; all by the database's
 *     time, so that replicas agree.
 * K2: while the database is away, what was read last serves on, for less time
 *     than a key is published before its use.
 * K3: a token that held is not verified anew while its key is known and its time
 *     lasts: an agent's calls carry the same one for minutes, and a signature
 *     costs more than the rest of such a call. Whether its session still stands
 *     is asked of the row each time all the same.
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
import type { Logger } from "pino";
import type { Db } from "../platform/transactions.ts";

export interface SigningKeySettings {
  /** A key signs for this long, then the next one does. */
  lifeMs: number;
}

export interface AccessTokens {
  issue(claims: Omit<AccessTokenClaims, "installationId">): Promise<string>;
  /** Throws UNAUTHENTICATED or TOKEN_EXPIRED. */
  verify(jwt: string): Promise<AccessTokenClaims>;
  /** Of each token. */
  readonly lifeMs: number;
}

/** Long enough to be seen by every replica, in production. Shorter where keys live shorter than an hour (tests). */
const publishBeforeUseMs = 600_000;
/** Verifiable after its last use for longer than any token lives. */
const keepAfterMs = 86_400_000;
/** Keys that do not fit are read again, at most this often: anybody may send an unknown key id. */
const unfitEveryMs = 1_000;

/** Tokens that are known to hold, of as many agents; the one that came longest ago goes. Some 500 bytes each. */
const maxVerified = 10_000;

interface Keys {
  readAt: number;
  incarnation: number;
  /** The database's time of now. */
  now: () => number;
  /** Newest first. */
  signing: { from: number; key: SigningKey }[];
  publicOf: Map<string, PublicJwk>;
}

interface KeyPorts {
  db: Db;
  encryption: EncryptionKey;
  installationId: string;
  signingKeys: SigningKeySettings;
  /** Of each token. */
  lifeMs: number;
  log: Pick<Logger, "warn">;
}

export function createAccessTokens(ports: KeyPorts): AccessTokens {
  const { installationId, lifeMs } = ports;
  const publishMs = Math.min(publishBeforeUseMs, ports.signingKeys.lifeMs / 4);
  /** Ten looks before a key's first use. */
  const lookEveryMs = publishMs / 10;
  const tooOldMs = publishMs / 2; // K2
  let known: Keys | undefined;
  let reading: Promise<Keys> | undefined;
  /** By the whole token, not by a part of it: whoever changes a byte has another one. */
  const verified = new Map<string, { kid: string; claims: AccessTokenClaims; until: number }>();

  function keep(jwt: string, kid: string, { claims, until }: { claims: AccessTokenClaims; until: number }): void {
    verified.set(jwt, { kid, claims, until });
    const [oldest] = verified.keys();
    if (verified.size > maxVerified && oldest !== undefined) verified.delete(oldest);
  }

  function look(): Promise<Keys> {
    return (reading ??= read(ports, publishMs)
      .then((keys) => (known = keys))
      .finally(() => (reading = undefined)));
  }

  async function keys(fits: (known: Keys) => boolean = () => true): Promise<Keys> {
    const age = known === undefined ? Infinity : performance.now() - known.readAt;
    if (known === undefined || age >= tooOldMs) return look();
    if (!fits(known) && age >= unfitEveryMs) return look();
    if (age >= lookEveryMs) {
      look().catch((error: unknown) => ports.log.warn({ error }, "the signing keys could not be read; tried again"));
    }
    return known;
  }

  return {
    lifeMs,
    async issue(claims) {
      // Another incarnation: the keys of the history before are no more.
      const { signing, now } = await keys((found) => found.incarnation === claims.incarnation);
      const at = now();
      const current = signing.find(({ from }) => from <= at) ?? signing.at(-1);
      if (current === undefined) throw problem("INTERNAL");
      return issueAccessToken(current.key, { ...claims, installationId }, { now: at, lifeMs });
    },
    async verify(jwt) {
      const before = verified.get(jwt);
      const kid = before?.kid ?? readKeyId(jwt);
      const { publicOf, now } = await keys((found) => kid === undefined || found.publicOf.has(kid));
      const at = now();
      if (before !== undefined && publicOf.has(before.kid) && at < before.until) return before.claims; // K3
      verified.delete(jwt);
      const verdict = await verifyAccessToken(jwt, (id) => publicOf.get(id), { installationId, now: at });
      if (!verdict.ok) throw problem(verdict.reason, verdict.message);
      if (kid !== undefined) keep(jwt, kid, verdict);
      return verdict.claims;
    },
  };
}

async function read(ports: KeyPorts, publishMs: number): Promise<Keys> {
  const readAt = performance.now();
  return ports.db.transaction().execute(async (tx) => {
    await sql`SELECT pg_advisory_xact_lock(7310002)`.execute(tx); // one replica makes the next key
    const kept = sql<Date>`now() - make_interval(secs => ${keepAfterMs / 1000})`;
    const rows = await tx
      .selectFrom("signing_keys")
      .selectAll()
      .where("usable_until", ">", kept)
      .orderBy("usable_from", "desc")
      .execute();
    // Not now(): this transaction may have waited for the lock.
    const { rows: times } = await sql<{ now: Date }>`SELECT clock_timestamp() AS now`.execute(tx);
    const databaseNow = times[0]?.now.getTime() ?? Date.now();
    const newest = rows[0];
    if (newest === undefined || newest.usable_until.getTime() - databaseNow < publishMs * 2) {
      const from = new Date(databaseNow + (newest === undefined ? 0 : publishMs)); // K1
      rows.unshift(await makeKey(ports, tx, from));
      await tx.deleteFrom("signing_keys").where("usable_until", "<=", kept).execute();
    }
    const { incarnation } = await tx.selectFrom("installation").select("incarnation").executeTakeFirstOrThrow();
    const answeredAt = performance.now();
    return {
      readAt,
      incarnation,
      now: () => databaseNow + (performance.now() - answeredAt),
      signing: rows.map((row) => ({
        from: row.usable_from.getTime(),
        key: { kid: row.id, privateJwk: privateJwkOf(ports, row) },
      })),
      publicOf: new Map(rows.map((row) => [row.id, row.public_jwk as PublicJwk])),
    };
  });
}

function privateJwkOf({ encryption }: KeyPorts, row: { id: string; private_encrypted: Buffer }): PrivateJwk {
  return JSON.parse(
    Buffer.from(decrypt([encryption], row.private_encrypted, context(row.id))).toString(),
  ) as PrivateJwk;
}

async function makeKey({ encryption, signingKeys }: KeyPorts, tx: Db, from: Date) {
  const pair = await generateKey("Ed25519");
  const id = newId("key");
  return tx
    .insertInto("signing_keys")
    .values({
      id,
      public_jwk: JSON.stringify(pair.publicJwk),
      private_encrypted: Buffer.from(encrypt(encryption, Buffer.from(JSON.stringify(pair.privateJwk)), context(id))),
      usable_from: from,
      usable_until: new Date(from.getTime() + signingKeys.lifeMs),
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

function context(id: string): string {
  return `signing_keys/${id}`;
}
