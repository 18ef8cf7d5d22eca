/** Fetches of one session against a real PostgreSQL, with secrets of which one cannot be read. */
import { encryptionKey, generateKey } from "@bowline/auth";
import { testDatabase } from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { epoch, startEngine } from "./commands/engine.fixture.ts";
import { sealCredentials } from "./registries/credentials.ts";
import { sealFor, writeValue } from "./secrets/values.ts";
import { createFetchReader, fetchDeployments } from "./sessions/fetch.ts";

const ours = encryptionKey(new Uint8Array(32).fill(7));
const lost = encryptionKey(new Uint8Array(32).fill(8));

test("a command whose secret cannot be read, or is gone, is told so alone; the others of the fetch get their bytes", async () => {
  const { db } = await testDatabase();
  const engine = await startEngine(db);
  const { agentId } = engine;
  const sealing = await generateKey("X25519");
  await db
    .updateTable("agents")
    .set({ sealing_key: JSON.stringify(sealing.publicJwk) })
    .execute();
  await db.insertInto("organisations").values({ id: "org_1", name: "one" }).execute();
  for (const [name, key] of Object.entries({ kept: ours, "orders-key": lost })) {
    await db
      .insertInto("secrets")
      .values({ id: `secret_${name}`, organisation_id: "org_1", name, version: 1 })
      .execute();
    await db.transaction().execute((tx) => writeValue(tx, key, `secret_${name}`, 1, Buffer.from("a value")));
  }
  const items: { commandId: string; attempt: number }[] = [];
  for (const secrets of [
    { "orders-key": "secret_orders-key/1" },
    { kept: "secret_kept/1" },
    { kept: "secret_kept/2" },
    {},
  ]) {
    const { commandId, deploymentId } = await engine.enqueue();
    await engine.claimOne();
    items.push({ commandId, attempt: 1 });
    await db
      .updateTable("deployment_generations")
      .set({ secrets: JSON.stringify(secrets) })
      .where("deployment_id", "=", deploymentId)
      .execute();
  }
  const warnings: string[] = [];
  const session = await db.selectFrom("sessions").select("id").executeTakeFirstOrThrow();
  const { deployments = [] } = await fetchDeployments(
    {
      ...{ db, read: createFetchReader(db), misuse: { note: () => undefined } },
      sealSecrets: (versions, key) => sealFor({ db, encryption: ours }, versions, key),
      sealRegistries: (organisationId, hosts, key) =>
        sealCredentials({ db, encryption: ours }, organisationId, hosts, key),
      warn: (details) => void warnings.push(JSON.stringify(details)),
    },
    { agentId, sessionId: session.id, epoch },
    { items },
  );
  const [unreadable, readable, gone, plain] = deployments;
  expect(unreadable).toMatchObject({
    ...items[0],
    reason: "SECRET_UNREADABLE",
    message: expect.stringMatching(/orders-key.*publish again/),
  });
  expect(unreadable?.spec).toBeUndefined();
  expect(gone).toMatchObject({ ...items[2], reason: "SECRET_UNREADABLE" });
  expect(Object.keys(readable?.sealedSecrets ?? {})).toEqual(["kept"]);
  for (const [index, found] of [readable, plain].entries()) {
    expect(found).toMatchObject({ ...items[index === 0 ? 1 : 3], spec: expect.any(Buffer) });
    expect(found?.reason ?? "").toBe("");
  }
  expect(warnings).toHaveLength(2);
  expect(warnings[0]).toContain(lost.id);
});
