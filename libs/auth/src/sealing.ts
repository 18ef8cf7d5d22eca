/** Secrets to one agent: a compact JWE to its X25519 key, so that a proxy that ends TLS in between sees none. */
import { compactDecrypt, CompactEncrypt, importJWK } from "jose";
import type { PrivateJwk, PublicJwk } from "./keys.ts";

const keyAgreement = "ECDH-ES+A256KW";
const contentEncryption = "A256GCM";

export async function sealTo(publicJwk: PublicJwk, plaintext: Uint8Array): Promise<string> {
  return await new CompactEncrypt(plaintext)
    .setProtectedHeader({ alg: keyAgreement, enc: contentEncryption })
    .encrypt(await importJWK(publicJwk, keyAgreement));
}

/** Throws if it was sealed to another key or changed since. */
export async function openSealed(privateJwk: PrivateJwk, jwe: string): Promise<Uint8Array> {
  const { plaintext } = await compactDecrypt(jwe, await importJWK(privateJwk, keyAgreement), {
    keyManagementAlgorithms: [keyAgreement],
    contentEncryptionAlgorithms: [contentEncryption],
  });
  return plaintext;
}
