/**
 * What an agent signs with its Ed25519 key: the assertion that opens a session
 * and the proof that accompanies an enrolment.
 *
 * A1: only EdDSA by the key that was asked for; the token's own header chooses
 *     nothing.
 * A2: times are compared only to bound a token's life. What makes an assertion
 *     good for one session is its counter, which the server keeps in a row.
 */
import { CompactSign, compactVerify, decodeJwt, errors, importJWK, jwtVerify, SignJWT, type JWTPayload } from "jose";
import type { KeyPair, PublicJwk } from "./keys.ts";

/** Life of an assertion: long enough for a slow dial, short enough to be worthless when found. */
export const assertionLifeMs = 60_000;

/** How far two clocks may be apart. Hosts without time service drift by seconds, wrong time zones by hours. */
export const clockSkewMs = 60_000;

/** Life of an enrolment proof. Beside the skew it bounds a replay, which the token's single use already makes pointless. */
export const proofLifeMs = 10 * 60_000;

const algorithm = "EdDSA";
const assertionType = "bowline-assertion+jwt";
const proofType = "bowline-enrolment+jws";
const keyChangeType = "bowline-key-change+jws";

/** Above what we ever sign; a longer one is not parsed. */
const maxTokenCharacters = 4096;

export type AssertionVerdict =
  | { ok: true; agentId: string; counter: number }
  | { ok: false; reason: "ASSERTION_INVALID" | "CLOCK_SKEW"; message: string };

/** `audience`: the installation's id. `counter`: above every one that this agent signed before. `now` in ms since 1970. */
export async function signAssertion(
  key: KeyPair,
  claims: { agentId: string; audience: string; counter: number; now: number },
): Promise<string> {
  const issuedAt = Math.floor(claims.now / 1000);
  return await new SignJWT({ counter: claims.counter })
    .setProtectedHeader({ alg: algorithm, typ: assertionType })
    .setSubject(claims.agentId)
    .setAudience(claims.audience)
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + assertionLifeMs / 1000)
    .sign(await importJWK(key.privateJwk, algorithm));
}

/** The agent that an assertion claims to come from, unverified: for finding its key. Undefined if it is no JWT. */
export function readAssertionSubject(jwt: string): string | undefined {
  if (jwt.length > maxTokenCharacters) return undefined;
  try {
    return decodeJwt(jwt).sub;
  } catch {
    return undefined; // Not a JWT.
  }
}

/** Checks an assertion against the agent's stored key. That its counter is above the last one is the caller's to check, in its row. */
export async function verifyAssertion(
  jwt: string,
  publicJwk: PublicJwk,
  options: { audience: string; now: number; skewMs?: number },
): Promise<AssertionVerdict> {
  const skewMs = options.skewMs ?? clockSkewMs;
  if (jwt.length > maxTokenCharacters) return invalid("it is too long");
  let payload: JWTPayload;
  try {
    ({ payload } = await jwtVerify(jwt, await importJWK(publicJwk, algorithm), {
      algorithms: [algorithm],
      typ: assertionType,
      audience: options.audience,
      requiredClaims: ["sub", "iat", "exp", "counter"],
      currentDate: new Date(options.now),
      clockTolerance: skewMs / 1000,
    }));
  } catch (error) {
    if (error instanceof errors.JWTExpired) return skewed("it has expired", error.payload, options.now);
    return invalid(error instanceof Error ? error.message : String(error));
  }
  const { sub, iat, exp, counter } = payload;
  if (typeof sub !== "string" || typeof iat !== "number" || typeof exp !== "number")
    return invalid("a claim is missing");
  if (!Number.isSafeInteger(counter) || (counter as number) <= 0) return invalid("counter is not a positive number");
  if ((exp - iat) * 1000 > assertionLifeMs) return invalid("it lives too long");
  if (iat * 1000 > options.now + skewMs) return skewed("it is from the future", payload, options.now);
  return { ok: true, agentId: sub, counter: counter as number };
}

function invalid(message: string): AssertionVerdict {
  return { ok: false, reason: "ASSERTION_INVALID", message: `the assertion does not hold: ${message}` };
}

function skewed(message: string, payload: JWTPayload, now: number): AssertionVerdict {
  return {
    ok: false,
    reason: "CLOCK_SKEW",
    message: `the assertion does not hold: ${message}; ${apart(payload.iat, now)}`,
  };
}

/** What an enrolment proof says. */
export interface EnrolmentProof {
  /** The registration token's 26 characters. */
  tokenId: string;
  /** Of the signing key. */
  thumbprint: string;
  /** The origin of the URL that the agent dials, e.g. `https://bowline.example.com`. */
  audience: string;
  /** See EnrollRequest.runtime_identity. */
  runtimeIdentity: string;
}

export type ProofVerdict =
  | { ok: true; proof: EnrolmentProof; issuedAtMs: number }
  | { ok: false; reason: "ENROLMENT_PROOF_INVALID" | "CLOCK_SKEW"; message: string };

export async function signEnrolmentProof(
  key: KeyPair,
  claims: { tokenId: string; audience: string; runtimeIdentity: string; now: number },
): Promise<string> {
  const payload = {
    token_id: claims.tokenId,
    thumbprint: key.thumbprint,
    aud: claims.audience,
    runtime_identity: claims.runtimeIdentity,
    iat: Math.floor(claims.now / 1000),
  };
  return await new CompactSign(new TextEncoder().encode(JSON.stringify(payload)))
    .setProtectedHeader({ alg: algorithm, typ: proofType })
    .sign(await importJWK(key.privateJwk, algorithm));
}

/**
 * Checks that the owner of `publicJwk` signed this proof lately. Whether its
 * claims are those of the request (token, thumbprint, audience, runtime
 * identity) is the caller's to compare.
 */
export async function verifyEnrolmentProof(
  jws: string,
  publicJwk: PublicJwk,
  options: { now: number; skewMs?: number },
): Promise<ProofVerdict> {
  const refuse = (message: string): ProofVerdict => ({ ok: false, reason: "ENROLMENT_PROOF_INVALID", message });
  if (jws.length > maxTokenCharacters) return refuse("the proof is too long");
  let claims: Record<string, unknown>;
  try {
    const { payload, protectedHeader } = await compactVerify(jws, await importJWK(publicJwk, algorithm), {
      algorithms: [algorithm],
    });
    if (protectedHeader.typ !== proofType) return refuse("this is not an enrolment proof");
    claims = JSON.parse(new TextDecoder().decode(payload)) as Record<string, unknown>;
  } catch (error) {
    return refuse(`the proof does not hold: ${error instanceof Error ? error.message : String(error)}`);
  }
  const { token_id: tokenId, thumbprint, aud: audience, runtime_identity: runtimeIdentity, iat } = claims ?? {};
  if (
    typeof tokenId !== "string" ||
    typeof thumbprint !== "string" ||
    typeof audience !== "string" ||
    typeof runtimeIdentity !== "string" ||
    typeof iat !== "number"
  ) {
    return refuse("a claim of the proof is missing");
  }
  const skewMs = options.skewMs ?? clockSkewMs;
  const issuedAtMs = iat * 1000;
  if (issuedAtMs > options.now + skewMs || issuedAtMs < options.now - proofLifeMs - skewMs) {
    return { ok: false, reason: "CLOCK_SKEW", message: apart(iat, options.now) };
  }
  return { ok: true, proof: { tokenId, thumbprint, audience, runtimeIdentity }, issuedAtMs };
}

/** What both the new and the present key of an agent sign, so that it changes its keys. */
export interface KeyChange {
  agentId: string;
  /** The installation's id. */
  audience: string;
  /** Of the new signing key. */
  thumbprint: string;
  /** Of the new sealing key. */
  sealingThumbprint: string;
}

export async function signKeyChange(key: KeyPair, change: KeyChange, now: number): Promise<string> {
  const payload = {
    sub: change.agentId,
    aud: change.audience,
    thumbprint: change.thumbprint,
    sealing_thumbprint: change.sealingThumbprint,
    iat: Math.floor(now / 1000),
  };
  return await new CompactSign(new TextEncoder().encode(JSON.stringify(payload)))
    .setProtectedHeader({ alg: algorithm, typ: keyChangeType })
    .sign(await importJWK(key.privateJwk, algorithm));
}

/** Checks that the owner of `publicJwk` signed exactly this change lately. Undefined: it holds. */
export async function whyNotKeyChange(
  jws: string,
  publicJwk: PublicJwk,
  change: KeyChange,
  now: number,
): Promise<{ reason: "KEY_PROOF_INVALID" | "CLOCK_SKEW"; message: string } | undefined> {
  const refuse = (message: string) => ({ reason: "KEY_PROOF_INVALID", message }) as const;
  if (jws.length > maxTokenCharacters) return refuse("the proof is too long");
  let claims: Record<string, unknown>;
  try {
    const { payload, protectedHeader } = await compactVerify(jws, await importJWK(publicJwk, algorithm), {
      algorithms: [algorithm],
    });
    if (protectedHeader.typ !== keyChangeType) return refuse("this is not the proof of a key");
    claims = JSON.parse(new TextDecoder().decode(payload)) as Record<string, unknown>;
  } catch (error) {
    return refuse(`the proof does not hold: ${error instanceof Error ? error.message : String(error)}`);
  }
  const { sub, aud, thumbprint, sealing_thumbprint: sealingThumbprint, iat } = claims ?? {};
  if (sub !== change.agentId || aud !== change.audience)
    return refuse("the proof was made for another agent or server");
  if (thumbprint !== change.thumbprint || sealingThumbprint !== change.sealingThumbprint)
    return refuse("the proof was made for other keys");
  if (typeof iat !== "number") return refuse("a claim of the proof is missing");
  if (iat * 1000 > now + clockSkewMs || iat * 1000 < now - proofLifeMs - clockSkewMs)
    return { reason: "CLOCK_SKEW", message: apart(iat, now) };
  return undefined;
}

function apart(issuedAt: number | undefined, now: number): string {
  const seconds = Math.round(now / 1000 - (issuedAt ?? 0));
  const how = seconds >= 0 ? `${seconds} s behind` : `${-seconds} s ahead of`;
  return `the agent's clock is about ${how} the server's`;
}
