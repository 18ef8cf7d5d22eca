/** Access tokens of several replicas on one database, while the key that signs them changes. */
import { randomBytes } from "node:crypto";
import { beforeAll, expect, test } from "@jest/globals";
import { type EncryptionKey, encryptionKey, readKeyId } from "@bowline/auth";
import { isProblem } from "@bowline/kernel";
import { testDatabase, type TestDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { type AccessTokens, createAccessTokens } from "./signing-keys.ts";

/** A key is made at half its life, and used from three quarters on. */
const signingKeys = { lifeMs: 6_000 };
const installationId = "installation_test";

let database: TestDatabase;
let encryption: EncryptionKey;

beforeAll(async () => {
  database = await testDatabase();
  encryption = encryptionKey(randomBytes(32));
  await database.db.insertInto("installation").values({ id: installationId }).execute();
});

/** A replica's view of the keys. */
function replica(): AccessTokens {
  const warn = (): void => undefined;
  return createAccessTokens({
    db: database.db,
    encryption,
    installationId,
    signingKeys,
    lifeMs: 600_000,
    log: { warn },
  });
}

const claims = { agentId: "agent_1", sessionId: "session_1", epoch: 1, incarnation: 1 };
const keysInRows = async (): Promise<string[]> => {
  const rows = await database.db.selectFrom("signing_keys").select("id").orderBy("usable_from").execute();
  return rows.map(({ id }) => id);
};
/** Of a key, by the database's time. */
const times = async (id: string | undefined): Promise<{ published?: boolean; usable?: boolean }> => {
  const { rows } = await sql<{ published: boolean; usable: boolean }>`
    SELECT usable_from >= date_trunc('milliseconds', created_at) + make_interval(secs => ${signingKeys.lifeMs / 4_000}) AS published,
      usable_from <= clock_timestamp() AS usable
    FROM signing_keys WHERE id = ${id}`.execute(database.db);
  return rows[0] ?? {};
};
/** The same token with one character of that part changed. */
const changed = (token: string, part: 0 | 1 | 2): string => {
  const parts = token.split(".");
  const text = parts[part] ?? "";
  return parts.with(part, `${text.slice(0, 8)}${text[8] === "A" ? "B" : "A"}${text.slice(9)}`).join(".");
};
const reasonOf = (error: unknown): string => (isProblem(error) ? error.reason : String(error));

test("a new key is in the rows before it signs; then another replica takes its tokens at once, and those of the old key until they end", async () => {
  const [a, b] = [replica(), replica()];
  const first = await a.issue(claims);
  expect(await b.verify(first)).toMatchObject(claims);
  const [old] = await keysInRows();
  expect(readKeyId(first)).toBe(old);
  expect(readKeyId(await b.issue(claims))).toBe(old); // two replicas that start make one key

  const [, next] = await until(async () => {
    await a.issue(claims); // looks at the keys now and then
    const ids = await keysInRows();
    return ids.length > 1 && ids;
  });
  expect(await times(next)).toMatchObject({ published: true }); // for a quarter of its life before its use
  const second = await until(async () => {
    const token = await a.issue(claims);
    const kid = readKeyId(token);
    // However long this process stood still since: the other key signs when its time has come, and never before.
    expect([kid, (await times(next)).usable]).toEqual(kid === old ? [old, expect.any(Boolean)] : [next, true]);
    return kid === next && token;
  });
  expect(await b.verify(second)).toMatchObject(claims);
  expect(await replica().verify(second)).toMatchObject(claims);
  for (const one of [a, b, replica()]) expect(await one.verify(first)).toMatchObject(claims);

  const expire = (hours: number) =>
    sql`UPDATE signing_keys SET usable_until = now() - make_interval(hours => ${hours}) WHERE id = ${old}`;
  await expire(23).execute(database.db);
  expect(await replica().verify(first)).toMatchObject(claims);
  await expire(25).execute(database.db);
  // Also where it has verified the token before: it looks at the keys now and then.
  await until(async () => (await b.verify(first).catch(reasonOf)) === "UNAUTHENTICATED");
  expect(await replica().verify(first).catch(reasonOf)).toBe("UNAUTHENTICATED");
  expect(await replica().verify(second)).toMatchObject(claims);
});

test("a token that held is refused with another byte anywhere, and at its end", async () => {
  const one = createAccessTokens({
    ...{ db: database.db, encryption, installationId, signingKeys, lifeMs: 1 },
    log: { warn: () => undefined },
  });
  const token = await one.issue(claims); // lives for a second, and the tolerance of five
  for (const _ of [1, 2]) expect(await one.verify(token)).toMatchObject(claims);
  for (const part of [0, 1, 2] as const)
    expect(await one.verify(changed(token, part)).catch(reasonOf)).toBe("UNAUTHENTICATED");
  expect(await one.verify(token)).toMatchObject(claims);
  await until(async () => (await one.verify(token).catch(reasonOf)) === "TOKEN_EXPIRED", { withinMs: 30_000 });
});
