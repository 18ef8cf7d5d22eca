/**
 * The two key pairs of an agent, as JWKs (RFC 8037): Ed25519 to sign, X25519 to
 * receive sealed secrets. Neither private half ever leaves the agent.
 */
import { calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK } from "jose";
import { createPrivateFile, readPrivateFile } from "./private-files.ts";

export type Curve = "Ed25519" | "X25519";

/** Exactly these members: whatever else a JWK may carry is dropped or refused. */
export interface PublicJwk {
  kty: "OKP";
  crv: Curve;
  /** 32 bytes, base64url. */
  x: string;
}

export interface PrivateJwk extends PublicJwk {
  /** 32 bytes, base64url. */
  d: string;
}

export interface KeyPair {
  privateJwk: PrivateJwk;
  publicJwk: PublicJwk;
  /** RFC 7638, SHA-256, base64url. */
  thumbprint: string;
}

/** 32 bytes as base64url have 43 characters; the last carries 4 bits, so that each key has one spelling. */
const bytes32 = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/;

/** Above any JWK of these curves; more is not parsed. */
const maxJwkCharacters = 1024;

export async function generateKey(curve: Curve): Promise<KeyPair> {
  const { privateKey } = await generateKeyPair(curve === "Ed25519" ? "EdDSA" : "ECDH-ES", {
    crv: curve,
    extractable: true,
  });
  return keyPair(await exportJWK(privateKey), curve);
}

/** The key pair of that file, made and fsynced (mode 0600) if there is none. Throws if the file holds something else. */
export async function loadOrCreateKey(path: string, curve: Curve): Promise<KeyPair> {
  const kept =
    (await readPrivateFile(path)) ??
    (await createPrivateFile(path, `${JSON.stringify((await generateKey(curve)).privateJwk)}\n`));
  try {
    return await readKeyPair(JSON.parse(kept), curve);
  } catch (error) {
    throw new Error(`${path} does not hold a private ${curve} key`, { cause: error });
  }
}

/** A pair by its private JWK. Throws if it is none of that curve. */
export function readKeyPair(jwk: unknown, curve: Curve): Promise<KeyPair> {
  return keyPair(jwk as JWK, curve);
}

/**
 * Reads a public key that a peer sent. Undefined unless it is a public JWK of
 * that curve; a private key is not taken either, for its owner must not have
 * sent it.
 */
export function validatePublicJwk(value: unknown, curve: Curve): PublicJwk | undefined {
  let jwk: unknown = value;
  if (typeof value === "string") {
    if (value.length > maxJwkCharacters) return undefined;
    try {
      jwk = JSON.parse(value);
    } catch {
      return undefined; // Not JSON, so not a JWK.
    }
  }
  if (typeof jwk !== "object" || jwk === null || "d" in jwk) return undefined;
  const { kty, crv, x } = jwk as Record<string, unknown>;
  if (kty !== "OKP" || crv !== curve || typeof x !== "string" || !bytes32.test(x)) return undefined;
  return { kty, crv: curve, x };
}

/** RFC 7638 with SHA-256: the same key has the same thumbprint, however its JWK is written. */
export function thumbprint(jwk: PublicJwk): Promise<string> {
  return calculateJwkThumbprint({ kty: jwk.kty, crv: jwk.crv, x: jwk.x });
}

async function keyPair(jwk: JWK, curve: Curve): Promise<KeyPair> {
  const { d, ...rest } = jwk;
  const publicJwk = validatePublicJwk(rest, curve);
  if (publicJwk === undefined || d === undefined || !bytes32.test(d)) throw new Error(`not a private ${curve} key`);
  return { privateJwk: { ...publicJwk, d }, publicJwk, thumbprint: await thumbprint(publicJwk) };
}
