/**
 * Tokens that people and agents present: `<prefix>_<id>_<secret>`.
 *
 * K1: a secret leaves this process once, in `text`; what is kept is its hash.
 * K2: the secret has 256 bits, so a plain SHA-256 keeps it (no slow hash).
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { newId } from "@bowline/kernel";

/** `bwr`: registers one agent. `bwt`: an API token of a service account. */
export const tokenPrefixes = ["bwr", "bwt"] as const;
export type TokenPrefix = (typeof tokenPrefixes)[number];

export interface NewToken {
  /** 26 characters: the suffix of the resource's id, which is `rt_<id>` or `sa_<id>`. */
  id: string;
  /** What is shown once. */
  text: string;
  /** SHA-256 of the secret, 32 bytes; what is stored. */
  hash: Uint8Array;
}

export interface ParsedToken {
  prefix: TokenPrefix;
  id: string;
  secret: string;
}

const secretBytes = 32;
/** The secret may hold `_` and `-`, so only the first two underscores separate. */
const pattern = /^(bwr|bwt)_([0-7][0-9a-hjkmnp-tv-z]{25})_([A-Za-z0-9_-]{43})$/;

export function newToken(prefix: TokenPrefix): NewToken {
  const id = newId("rt").slice("rt_".length);
  const secret = randomBytes(secretBytes).toString("base64url");
  return { id, text: `${prefix}_${id}_${secret}`, hash: hashSecret(secret) };
}

/** Reads what somebody sent; undefined if it has not the form of a token. Blanks around it are the reader's to trim. */
export function parseToken(text: string): ParsedToken | undefined {
  const [, prefix, id, secret] = pattern.exec(text) ?? [];
  if (prefix === undefined || id === undefined || secret === undefined) return undefined;
  return { prefix: prefix as TokenPrefix, id, secret };
}

export function hashSecret(secret: string): Uint8Array {
  return new Uint8Array(createHash("sha256").update(secret, "utf8").digest());
}

/** Whether `secret` is the one whose hash is kept; in constant time. */
export function matches(hash: Uint8Array, secret: string): boolean {
  const other = hashSecret(secret);
  return hash.byteLength === other.byteLength && timingSafeEqual(hash, other);
}
