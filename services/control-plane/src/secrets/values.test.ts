/** Values of secrets over a real database: text of several lines, bytes, and what a header can carry. */
import { randomBytes } from "node:crypto";
import { encryptionKey, generateKey, openSealed } from "@bowline/auth";
import { SecretService } from "@bowline/contract/secrets";
import { isProblem, newId } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { beforeAll, expect, test } from "@jest/globals";
import type { Principal } from "../platform/context.ts";
import { createEvents } from "../platform/events.ts";
import { inProcess, reasonOf } from "../platform/in-process.ts";
import { createSecrets } from "./index.ts";

async function start() {
  const { db } = await testDatabase();
  const log = { error: () => undefined, warn: () => undefined, info: () => undefined };
  const organisationId = newId("org");
  await db.insertInto("organisations").values({ id: organisationId, name: "alpha" }).execute();
  const secrets = createSecrets({ db, events: createEvents(db, log), encryption: encryptionKey(randomBytes(32)) });
  const principal: Principal = {
    ...{ kind: "service-account", id: "sa", name: "sa", role: "provider", organisationId, organisation: "alpha" },
  };
  const api = inProcess((router) => secrets.register(router), { authenticate: async () => principal });
  const key = await generateKey("X25519");
  const resolved = (names: readonly string[]) =>
    db.transaction().execute((tx) => secrets.resolve(tx, organisationId, names));
  return {
    api: api.as(SecretService, "provider"),
    /** As an agent opens it. */
    opened: async (name: string) => {
      const sealed = await secrets.seal(await resolved([name]), key.publicJwk);
      if (!sealed.ok) throw new Error(sealed.why);
      return Buffer.from(await openSealed(key.privateJwk, sealed.values[name] ?? ""));
    },
    asHeader: async (name: string) => {
      try {
        await db.transaction().execute((tx) => secrets.resolveHeaders(tx, organisationId, [name]));
        return "ok";
      } catch (error) {
        if (isProblem(error)) return error.reason;
        throw error;
      }
    },
  };
}

let slice: Awaited<ReturnType<typeof start>>;
beforeAll(async () => {
  slice = await start();
});

const pem = `-----BEGIN CERTIFICATE-----\n${"MIIB".repeat(700)}\r\n-----END CERTIFICATE-----\n`;

test("text of several lines and bytes come out as they went in, of 64 KiB too", async () => {
  const { api, opened } = slice;
  await api.createSecret({ name: "text", value: pem });
  expect(String(await opened("text"))).toBe(pem);
  await api.setSecretValue({ id: "text", value: "Grüße, 世界\0" });
  expect(String(await opened("text"))).toBe("Grüße, 世界\0");
  const bytes = randomBytes(65_536);
  await api.setSecretValue({ id: "text", data: bytes });
  expect((await opened("text")).equals(bytes)).toBe(true);
  await api.createSecret({ name: "bytes", data: Buffer.from([0, 255, 10]) });
  expect([...(await opened("bytes"))]).toEqual([0, 255, 10]);
});

test("neither text nor bytes, both, and more than 64 KiB of either are INVALID_ARGUMENT, and make nothing", async () => {
  const { api } = slice;
  for (const wrong of [
    {},
    { value: "", data: new Uint8Array() },
    { value: "a", data: Buffer.from("a") },
    { value: "é".repeat(32_769) },
    { data: Buffer.alloc(65_537) },
  ]) {
    expect(await reasonOf(api.createSecret({ name: "wrong", ...wrong }))).toBe("INVALID_ARGUMENT");
    expect(await reasonOf(api.setSecretValue({ id: "text", ...wrong }))).toBe("INVALID_ARGUMENT");
  }
  expect(await reasonOf(api.getSecret({ id: "wrong" }))).toBe("NOT_FOUND");
});

test("what is no header's value is SECRET_UNFIT for who sends it as one", async () => {
  const { api, asHeader } = slice;
  await api.createSecret({ name: "header", value: "Bearer\tabc ~" });
  expect(await asHeader("header")).toBe("ok");
  for (const unfit of [{ value: pem }, { value: "é" }, { value: "a".repeat(4097) }, { data: Buffer.from([0]) }]) {
    await api.setSecretValue({ id: "header", ...unfit });
    expect(await asHeader("header")).toBe("SECRET_UNFIT");
  }
  expect(await asHeader("none")).toBe("SECRET_UNKNOWN");
});
