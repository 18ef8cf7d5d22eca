/**
 * An upgrade as a replica of the version before sees it: the schema changes
 * under it while it serves. This build stands for the older one; the newer
 * one's migration is made up, of what migrations may do.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { beforeAll, expect, test } from "@jest/globals";
import { ProductPublish_State as State, ProductPublishService } from "@bowline/contract/products";
import {
  enrolScriptedAgent,
  type FleetAgent,
  startFleetAgent,
  startProcess,
  startServer,
  type TestServer,
  until,
} from "@bowline/testing";
import { sql } from "kysely";
import { programs } from "../e2e/fixture.ts";

const newer = "9998-newer";
const within = { withinMs: 60_000 };

let server: TestServer;
let fleet: FleetAgent[];

beforeAll(async () => {
  server = await startServer();
  const { id } = await server.operator.cluster("place");
  const enrolled = async (): Promise<FleetAgent> =>
    startFleetAgent(await enrolScriptedAgent({ url: server.url, token: await server.operator.registrationToken(id) }));
  fleet = await Promise.all([enrolled(), enrolled(), enrolled()]);
  await until(() => fleet.every((agent) => agent.session() !== undefined));
});

/** As clients do it: what is answered "unavailable" is repeated, with its key. */
async function repeated<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof ConnectError) || error.code !== Code.Unavailable) throw error;
      await sleep(100);
    }
  }
}

async function publishLive(requestId: string): Promise<void> {
  const publishes = server.client(ProductPublishService);
  const order = { productId: "steady", clusterId: "place", requestId };
  const { id } = await repeated(() => publishes.createProductPublish(order));
  const isLive = async () => (await repeated(() => publishes.getProductPublish({ id }))).state === State.LIVE;
  await until(isLive, within);
}

/** How often a migration that met a busy replica in a circle is begun again; each table here is one chance to. */
const upgradeAttempts = 20;

/** As `migrate` of @bowline/db does it: what PostgreSQL undid for a deadlock is done again, as a whole. */
async function upgrade(): Promise<number> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await upgradeOnce();
    } catch (error) {
      if ((error as { code?: unknown }).code !== "40P01" || attempt === upgradeAttempts) throw error;
    }
  }
}

/** Every table gets columns and an index, in one transaction and under the lock, as a migration does it. */
async function upgradeOnce(): Promise<number> {
  return server.database.db.transaction().execute(async (tx) => {
    await sql`SELECT pg_advisory_xact_lock(3853314791062309107)`.execute(tx);
    const { rows } = await sql<{ name: string }>`
      SELECT c.relname AS name FROM pg_class AS c
      WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND c.relname NOT LIKE 'kysely%' ORDER BY 1`.execute(tx);
    for (const { name } of rows) {
      await sql`ALTER TABLE ${sql.table(name)} ADD COLUMN newer text NOT NULL DEFAULT 'x', ADD COLUMN newest jsonb`.execute(
        tx,
      );
      await sql`CREATE INDEX ON ${sql.table(name)} (newer)`.execute(tx);
    }
    await sql`CREATE TABLE newer (id text PRIMARY KEY, agent_id text REFERENCES agents (id))`.execute(tx);
    await sql`INSERT INTO kysely_migration (name, timestamp) VALUES (${newer}, ${new Date().toISOString()})`.execute(
      tx,
    );
    return rows.length;
  });
}

test("a server goes on while a newer one's migration adds to every table, and starts again beside that schema: nothing fails, nothing is tried twice", async () => {
  await server.operator.product("steady");
  let publishing = true;
  let live = 0;
  const stream = (async () => {
    for (; publishing; live += 1) await publishLive(`publish ${live}`);
  })();
  const upgraded = (async () => {
    await until(() => live >= 3, within); // also statements that connections keep prepared
    expect(await upgrade()).toBeGreaterThan(20);
    const then = live;
    await until(() => live >= then + 5, within);
  })().finally(() => (publishing = false));
  await Promise.all([upgraded, stream]);
  for (const agent of fleet) agent.session()?.drop();
  await until(() => fleet.every((agent) => agent.sessions() === 2 && agent.session() !== undefined), within);
  await publishLive("after");
  const cluster = (await server.operator.cluster("another")).id;
  expect(await server.operator.registrationToken(cluster)).toMatch(/^bwr_/);
  expect(server.process.output()).not.toMatch(/"reason":"INTERNAL"|cached plan/);

  await server.stop();
  server = await server.again();
  expect(server.process.output()).toMatch(/the schema is newer than this build/);
  await until(() => fleet.every((agent) => agent.sessions() === 3 && agent.session() !== undefined), within);
  await publishLive("again");
  const commands = await server.database.db.selectFrom("command_states").select(["state", "attempt"]).execute();
  expect(new Set(commands.map(({ state, attempt }) => `${state} ${attempt}`))).toEqual(new Set(["SUCCEEDED 1"]));
  expect(fleet.flatMap((agent) => [...agent.effects.values()]).every((times) => times === 1)).toBe(true);
});

test("a server that the schema says is too old for it does not start, and says what to do", async () => {
  const old = await startServer();
  await old.stop();
  const { db, url } = old.database;
  await sql`INSERT INTO kysely_migration (name, timestamp) VALUES (${newer}, '')`.execute(db);
  await db.updateTable("installation").set({ oldest_schema: newer }).execute();
  const refused = startProcess({
    command: ["node", programs.server, "start", "--data-dir", old.dataDir, "--port", "0"],
    env: { BOWLINE_DATABASE_URL: url },
  });
  await refused.untilLine(/SCHEMA_TOO_NEW: .*start a newer one/, within);
  expect(await refused.ended).toEqual({ code: 1, signal: null });
});
