/**
 * Secrets at rest: AES-256-GCM with a key that is kept outside the database.
 *
 *   byte 0      version, 1
 *   bytes 1–8   id of the key: the first 8 bytes of its SHA-256
 *   bytes 9–20  nonce, random
 *   then        ciphertext, and 16 bytes of tag
 *
 * The place that it is kept in (`context`, e.g. `signing_keys/<kid>`) is
 * authenticated too: a value moved to another row does not decrypt.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from "node:crypto";
import { createPrivateFile, readPrivateFile } from "./private-files.ts";

export interface EncryptionKey {
  /** 16 hexadecimal characters; not a secret. */
  id: string;
  bytes: Uint8Array;
}

const version = 1;
const idBytes = 8;
const nonceBytes = 12;
const tagBytes = 16;
const headerBytes = 1 + idBytes + nonceBytes;
const keyBytes = 32;

export function encryptionKey(bytes: Uint8Array): EncryptionKey {
  if (bytes.byteLength !== keyBytes)
    throw new RangeError(`an encryption key has ${keyBytes} bytes, not ${bytes.byteLength}`);
  return { id: createHash("sha256").update(bytes).digest().subarray(0, idBytes).toString("hex"), bytes };
}

export function encrypt(key: EncryptionKey, plaintext: Uint8Array, context: string): Uint8Array {
  const nonce = randomBytes(nonceBytes);
  const header = Buffer.concat([Buffer.from([version]), Buffer.from(key.id, "hex"), nonce]);
  const cipher = createCipheriv("aes-256-gcm", key.bytes, nonce, { authTagLength: tagBytes });
  cipher.setAAD(authenticated(header, context));
  return new Uint8Array(Buffer.concat([header, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]));
}

/** HMAC-SHA-256 with a key that is derived for this use of it: who lacks the key cannot try texts on it. */
export function keyedHash(key: EncryptionKey, text: string, context: string): Uint8Array {
  const derived = hkdfSync("sha256", key.bytes, new Uint8Array(), `bowline hash ${context}`, keyBytes);
  return new Uint8Array(createHmac("sha256", Buffer.from(derived)).update(text).digest());
}

/** Id of the key that made it; undefined if this is none of ours. For rotation. */
export function encryptedWith(sealed: Uint8Array): string | undefined {
  if (sealed.byteLength < headerBytes + tagBytes || sealed[0] !== version) return undefined;
  return Buffer.from(sealed.subarray(1, 1 + idBytes)).toString("hex");
}

/** Throws, with the key's id, if none of `keys` made it, and if it was changed or moved. */
export function decrypt(keys: readonly EncryptionKey[], sealed: Uint8Array, context: string): Uint8Array {
  const id = encryptedWith(sealed);
  if (id === undefined) throw new Error(`${context}: this was not encrypted by us, or it is cut short`);
  const key = keys.find((candidate) => candidate.id === id);
  if (key === undefined) throw new Error(`${context}: encrypted with the key ${id}, which is not at hand`);
  const header = sealed.subarray(0, headerBytes);
  const decipher = createDecipheriv("aes-256-gcm", key.bytes, header.subarray(1 + idBytes), {
    authTagLength: tagBytes,
  });
  decipher.setAAD(authenticated(header, context));
  decipher.setAuthTag(sealed.subarray(sealed.byteLength - tagBytes));
  const body = sealed.subarray(headerBytes, sealed.byteLength - tagBytes);
  return new Uint8Array(Buffer.concat([decipher.update(body), decipher.final()]));
}

/** The key of that file (base64 of 32 bytes), made with mode 0600 if there is none. Throws if the file holds something else. */
export async function loadOrCreateKeyFile(path: string): Promise<EncryptionKey> {
  const text =
    (await readPrivateFile(path)) ?? (await createPrivateFile(path, `${randomBytes(keyBytes).toString("base64")}\n`));
  const bytes = Buffer.from(text.trim(), "base64");
  if (bytes.byteLength !== keyBytes) throw new Error(`${path} does not hold an encryption key (32 bytes as base64)`);
  return encryptionKey(new Uint8Array(bytes));
}

function authenticated(header: Uint8Array, context: string): Uint8Array {
  return Buffer.concat([header, Buffer.from(context, "utf8")]);
}
