import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { decrypt, encrypt, encryptedWith, encryptionKey, loadOrCreateKeyFile } from "./encryption.ts";

const key = encryptionKey(new Uint8Array(32).fill(7));
const other = encryptionKey(new Uint8Array(32).fill(8));

test("what was encrypted decrypts, with its key among several", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.string(), (plaintext, context) => {
      const sealed = encrypt(key, plaintext, context);
      expect(encryptedWith(sealed)).toBe(key.id);
      expect(decrypt([other, key], sealed, context)).toEqual(plaintext);
    }),
  );
});

test("a changed byte anywhere, another place and a missing key are errors", () => {
  const sealed = encrypt(key, new Uint8Array([1, 2, 3]), "a");
  for (let at = 0; at < sealed.length; at += 1) {
    const changed = sealed.slice();
    changed[at] = (changed[at] ?? 0) ^ 1;
    expect(() => decrypt([key, other], changed, "a")).toThrow();
  }
  expect(() => decrypt([key], sealed, "b")).toThrow();
  expect(() => decrypt([other], sealed, "a")).toThrow(key.id);
  expect(() => decrypt([key], sealed.slice(0, 10), "a")).toThrow("cut short");
});

test("a key file is made once, mode 0600, whoever comes first", async () => {
  const folder = await mkdtemp(join(tmpdir(), "bowline-encryption-"));
  try {
    const path = join(folder, "key");
    const keys = await Promise.all([1, 2, 3].map(() => loadOrCreateKeyFile(path)));
    expect(new Set(keys.map((made) => made.id)).size).toBe(1);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  } finally {
    await rm(folder, { recursive: true });
  }
});
