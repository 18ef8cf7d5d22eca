/** Keys on the disk, through a change that a crash cuts short at any write. */
import { copyFileSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { sealTo } from "@bowline/auth";
import { temporaryFolder } from "@bowline/testing";
import { openKeyStore } from "./keys.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

function copyOf(folder: string): string {
  const copy = join(temporaryFolder(), "copy");
  mkdirSync(copy);
  for (const file of readdirSync(folder)) copyFileSync(join(folder, file), join(copy, file));
  return copy;
}

test("next keys are there after a restart, the same ones, and the present ones stay until they are promoted", async () => {
  const folder = temporaryFolder();
  const store = await openKeyStore(folder);
  const present = store.current().signing.thumbprint;
  const next = await store.prepare();
  expect((await store.prepare()).signing.thumbprint).toBe(next.signing.thumbprint);
  const again = await openKeyStore(folder);
  expect(again.current().signing.thumbprint).toBe(present);
  expect(again.next()?.signing.thumbprint).toBe(next.signing.thumbprint);
  await again.promote();
  expect(again.next()).toBeUndefined();
  const after = await openKeyStore(folder);
  expect(after.current().signing.thumbprint).toBe(next.signing.thumbprint);
  expect(after.current().sealing.thumbprint).toBe(next.sealing.thumbprint);
  expect(readdirSync(folder).toSorted()).toEqual(["earlier-sealing-keys.json", "sealing-key.json", "signing-key.json"]);
  for (const file of readdirSync(folder)) expect(statSync(join(folder, file)).mode & 0o777).toBe(0o600);
});

test("cut short after any of its writes, a promotion has the old keys and the next ones, or is ended at the next start", async () => {
  const before = temporaryFolder();
  const store = await openKeyStore(before);
  const [old, next] = [store.current(), await store.prepare()];
  const after = copyOf(before);
  await (await openKeyStore(after)).promote();
  const writes = ["earlier-sealing-keys.json", "signing-key.json", "sealing-key.json"];
  const sealed = await sealTo(old.sealing.publicJwk, bytes("of old"));
  for (let done = 0; done <= writes.length; done += 1) {
    const torn = copyOf(before);
    for (const file of writes.slice(0, done)) copyFileSync(join(after, file), join(torn, file));
    const found = await openKeyStore(torn);
    const promoted = done >= 2;
    const expected = promoted ? next : old;
    expect(found.current().signing.thumbprint).toBe(expected.signing.thumbprint);
    expect(found.current().sealing.thumbprint).toBe(expected.sealing.thumbprint);
    expect(found.next()?.signing.thumbprint).toBe(promoted ? undefined : next.signing.thumbprint);
    expect(existsSync(join(torn, "next-keys.json"))).toBe(!promoted);
    expect(new TextDecoder().decode(await found.open(sealed))).toBe("of old");
  }
});

test("what was sealed to any key before is opened; what was sealed to somebody else is not", async () => {
  const folder = temporaryFolder();
  const sealed: string[] = [];
  for (let change = 0; change < 3; change += 1) {
    const store = await openKeyStore(folder);
    sealed.push(await sealTo(store.current().sealing.publicJwk, bytes(`secret ${change}`)));
    await store.prepare();
    await store.promote();
  }
  const store = await openKeyStore(folder);
  const opened = await Promise.all(sealed.map(async (one) => new TextDecoder().decode(await store.open(one))));
  expect(opened).toEqual(["secret 0", "secret 1", "secret 2"]);
  const stranger = (await openKeyStore(temporaryFolder())).current().sealing.publicJwk;
  await expect(store.open(await sealTo(stranger, bytes("x")))).rejects.toThrow();
});

test("next keys that cannot be read are told by their file: going on without them could lose the agent", async () => {
  const folder = temporaryFolder();
  await (await openKeyStore(folder)).prepare();
  writeFileSync(join(folder, "next-keys.json"), "{");
  await expect(openKeyStore(folder)).rejects.toThrow("next-keys.json");
});
