import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { generateKey, loadOrCreateKey, thumbprint, validatePublicJwk } from "./keys.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "bowline-keys-"));
});
afterAll(() => rm(folder, { recursive: true }));

test("a key file is made once, mode 0600, and gives the same key again", async () => {
  const path = join(folder, "signing.jwk");
  const [first, second] = await Promise.all([loadOrCreateKey(path, "Ed25519"), loadOrCreateKey(path, "Ed25519")]);
  expect(second).toEqual(first);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
});

test("a key file with another curve or with nonsense is an error that names the file", async () => {
  const path = join(folder, "sealing.jwk");
  await loadOrCreateKey(path, "X25519");
  await expect(loadOrCreateKey(path, "Ed25519")).rejects.toThrow(path);
  await writeFile(join(folder, "nonsense"), "{");
  await expect(loadOrCreateKey(join(folder, "nonsense"), "Ed25519")).rejects.toThrow("nonsense");
});

test("a public JWK is taken as object and as text, and only its own members", async () => {
  const { publicJwk } = await generateKey("Ed25519");
  expect(validatePublicJwk({ ...publicJwk, kid: "x" }, "Ed25519")).toEqual(publicJwk);
  expect(validatePublicJwk(JSON.stringify(publicJwk), "Ed25519")).toEqual(publicJwk);
});

test("a private key, another curve, a short or odd x, and nonsense are not public keys", async () => {
  const { publicJwk, privateJwk } = await generateKey("Ed25519");
  const odd = publicJwk.x.slice(0, -1) + "B"; // the last character's unused bits are set
  for (const wrong of [
    privateJwk,
    { ...publicJwk, crv: "X25519" },
    { ...publicJwk, x: "AA" },
    { ...publicJwk, x: odd },
  ]) {
    expect(validatePublicJwk(wrong, "Ed25519")).toBeUndefined();
  }
  for (const wrong of [null, 7, "", "null", "[]", "x".repeat(2000)]) {
    expect(validatePublicJwk(wrong, "Ed25519")).toBeUndefined();
  }
});

test("the thumbprint of RFC 8037's key is the one that the RFC prints", async () => {
  const jwk = { kty: "OKP", crv: "Ed25519", x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" } as const;
  expect(await thumbprint(jwk)).toBe("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
});
