/**
 * The access token of a session: a JWT that the server signs and that the
 * agent's unary calls carry. It says which session it belongs to; whether that
 * session still stands is a question to its row, asked at every call.
 */
import { decodeProtectedHeader, errors, importJWK, jwtVerify, SignJWT, type JWTPayload } from "jose";
import type { PrivateJwk, PublicJwk } from "./keys.ts";

/** Life of an access token. It is renewed at half of it, so a stalled stream has 5 minutes. */
export const accessTokenLifeMs = 10 * 60_000;

const algorithm = "EdDSA";
const tokenType = "at+jwt";
/** Replicas take the database's time, so they agree to well below this. */
const toleranceMs = 5_000;

/** A private Ed25519 key of the server, and its id. */
export interface SigningKey {
  kid: string;
  privateJwk: PrivateJwk;
}

export interface AccessTokenClaims {
  agentId: string;
  sessionId: string;
  epoch: number;
  /** `aud` and `iss`. */
  installationId: string;
  incarnation: number;
}

export type AccessTokenVerdict =
  /** It holds until then, ms since 1970, as long as its key does. */
  | { ok: true; claims: AccessTokenClaims; until: number }
  | { ok: false; reason: "UNAUTHENTICATED" | "TOKEN_EXPIRED"; message: string };

/** `now` in ms since 1970, the database's. */
export async function issueAccessToken(
  key: SigningKey,
  claims: AccessTokenClaims,
  options: { now: number; lifeMs?: number },
): Promise<string> {
  const issuedAt = Math.floor(options.now / 1000);
  return await new SignJWT({ sid: claims.sessionId, epoch: claims.epoch, inc: claims.incarnation })
    .setProtectedHeader({ alg: algorithm, typ: tokenType, kid: key.kid })
    .setIssuer(claims.installationId)
    .setAudience(claims.installationId)
    .setSubject(claims.agentId)
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + Math.ceil((options.lifeMs ?? accessTokenLifeMs) / 1000))
    .sign(await importedKey(key.privateJwk));
}

/** The few keys of the server, each imported once for as long as somebody holds it. */
const imported = new WeakMap<PublicJwk | PrivateJwk, ReturnType<typeof importJWK>>();

function importedKey(jwk: PublicJwk | PrivateJwk): ReturnType<typeof importJWK> {
  let key = imported.get(jwk);
  if (key === undefined) imported.set(jwk, (key = importJWK(jwk, algorithm)));
  return key;
}

/** True if `text` looks like an access token and not like an API token: decides who verifies it. */
export function looksLikeAccessToken(text: string): boolean {
  try {
    return decodeProtectedHeader(text).typ === tokenType;
  } catch {
    return false; // Not a JWT.
  }
}

/** `publicKey` finds the server's key of that id; undefined refuses. */
export async function verifyAccessToken(
  jwt: string,
  publicKey: (kid: string) => Promise<PublicJwk | undefined> | PublicJwk | undefined,
  options: { installationId: string; now: number },
): Promise<AccessTokenVerdict> {
  const refuse = (message: string): AccessTokenVerdict => ({ ok: false, reason: "UNAUTHENTICATED", message });
  let payload: JWTPayload;
  try {
    const { kid } = decodeProtectedHeader(jwt);
    const jwk = kid === undefined ? undefined : await publicKey(kid);
    if (jwk === undefined) return refuse("the access token's key is not known");
    ({ payload } = await jwtVerify(jwt, await importedKey(jwk), {
      algorithms: [algorithm],
      typ: tokenType,
      issuer: options.installationId,
      audience: options.installationId,
      requiredClaims: ["sub", "sid", "epoch", "inc", "exp"],
      currentDate: new Date(options.now),
      clockTolerance: toleranceMs / 1000,
    }));
  } catch (error) {
    if (error instanceof errors.JWTExpired) {
      return { ok: false, reason: "TOKEN_EXPIRED", message: "the access token has expired" };
    }
    if (error instanceof errors.JOSEError || error instanceof TypeError)
      return refuse("the access token does not hold");
    throw error; // The key store failed; that is not the token's fault.
  }
  const { sub, sid, epoch, inc, exp = 0 } = payload;
  if (typeof sub !== "string" || typeof sid !== "string" || typeof epoch !== "number" || typeof inc !== "number") {
    return refuse("the access token lacks a claim");
  }
  const { installationId } = options;
  const claims = { agentId: sub, sessionId: sid, epoch, installationId, incarnation: inc };
  return { ok: true, claims, until: exp * 1000 + toleranceMs };
}

/** The id of the key that a token names, before anything is verified; undefined where it names none. */
export function readKeyId(jwt: string): string | undefined {
  try {
    return decodeProtectedHeader(jwt).kid;
  } catch {
    return undefined; // no token at all: verifying it says so
  }
}
