/** Passwords of registries: the only place where they are in clear text, and only in memory. */
import { decrypt, encrypt, type EncryptionKey, type PublicJwk, sealTo } from "@bowline/auth";
import type { Db } from "../platform/transactions.ts";

/** What a fetch gets, by host. Not ok: the password of that host cannot be read; `why` is for the log. */
export type SealedCredentials =
  | { ok: true; values: Record<string, string> }
  | { ok: false; host: string; registryId: string; why: string };

/** R1. */
export function encryptPassword(encryption: EncryptionKey, registryId: string, password: string): Buffer {
  return Buffer.from(encrypt(encryption, Buffer.from(password), placeOf(registryId)));
}

/** R2. The organisation's credentials as they are now; hosts without one are missing. */
export async function sealCredentials(
  { db, encryption }: { db: Db; encryption: EncryptionKey },
  organisationId: string,
  hosts: readonly string[],
  key: PublicJwk,
): Promise<SealedCredentials> {
  const rows = await db
    .selectFrom("registries")
    .select(["id", "host", "username", "password_encrypted"])
    .where("organisation_id", "=", organisationId)
    .where("host", "in", hosts)
    .orderBy("host")
    .execute();
  const values: Record<string, string> = {};
  for (const { id, host, username, password_encrypted } of rows) {
    let password: string;
    try {
      password = Buffer.from(decrypt([encryption], password_encrypted, placeOf(id))).toString();
    } catch (error) {
      return { ok: false, host, registryId: id, why: error instanceof Error ? error.message : String(error) };
    }
    values[host] = await sealTo(key, Buffer.from(JSON.stringify({ username, password })));
  }
  return { ok: true, values };
}

function placeOf(registryId: string): string {
  return `registries/${registryId}`;
}
