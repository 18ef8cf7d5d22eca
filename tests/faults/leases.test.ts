/** Leases of replicas, and what a session becomes that ends while the database is away. */
import { beforeEach, expect, test } from "@jest/globals";
import {
  databaseProxy,
  type ScriptedAgent,
  startReplicas,
  startServer,
  testDatabase,
  type TestDatabase,
  type TestServer,
  until,
} from "@bowline/testing";
import { sql } from "kysely";

/** Production: 15 s and 30 s. */
const lease = { leaseMs: 1_500, graceMs: 3_000 };
const flags = [
  ...["--lease-ms", String(lease.leaseMs), "--lease-grace-ms", String(lease.graceMs)],
  ...["--heartbeat-interval-ms", "1000", "--silence-limit-ms", "300000"], // nobody is silent here
];
/** A replica waits for a lease, a grace, and its turns. */
const within = { withinMs: 60_000 };

let database: TestDatabase;

beforeEach(async () => {
  database = await testDatabase();
});

async function databaseNow(): Promise<Date> {
  const { rows } = await sql<{ now: Date }>`SELECT clock_timestamp() AS now`.execute(database.db);
  return rows[0]?.now ?? new Date(0);
}

async function sessionOf({ agentId }: ScriptedAgent) {
  return database.db.selectFrom("sessions").selectAll().where("agent_id", "=", agentId).executeTakeFirstOrThrow();
}

/** When the agent's session was ended because its replica was lost. */
async function lostAt(agent: ScriptedAgent): Promise<number> {
  const row = await until(async () => {
    const found = await sessionOf(agent);
    return found.state === "ENDED" && found;
  }, within);
  expect(row.end_reason).toBe("REPLICA_LOST");
  return row.ended_at?.getTime() ?? 0;
}

async function leaseUntil({ replicaId }: TestServer): Promise<number> {
  const row = await database.db
    .selectFrom("replicas")
    .select("lease_until")
    .where("id", "=", replicaId)
    .executeTakeFirstOrThrow();
  return row.lease_until.getTime();
}

test("a replica that starts ends nobody's session; one that is killed has its sessions ended by another after lease and grace, and is forgotten", async () => {
  const killed = await startServer({ database, flags });
  const agent = await killed.scriptedAgent({ cluster: "killed" });
  const other = await startServer({ beside: killed, flags });
  const there = await other.scriptedAgent({ cluster: "killed" });
  expect(await sessionOf(agent)).toMatchObject({ state: "SERVING", epoch: 1, replica_id: killed.replicaId });

  await killed.kill();
  const passedAt = await leaseUntil(killed);
  expect(await lostAt(agent)).toBeGreaterThanOrEqual(passedAt + lease.graceMs);
  await until(async () => {
    const rows = await database.db.selectFrom("replicas").select("id").execute();
    return rows.map(({ id }) => id).join() === other.replicaId;
  }, within);
  expect(await sessionOf(there)).toMatchObject({ state: "SERVING", epoch: 1 });
  await there.heartbeat();
});

test.each(["paused", "without its database"] as const)(
  "a replica that was %s ends nobody before its own renewals were unbroken for lease and grace",
  async (how) => {
    const proxy = await databaseProxy(database);
    const sweeper = await startServer({ database, databaseUrl: proxy.url, flags });
    const killed = await startServer({ beside: sweeper, flags });
    const agent = await killed.scriptedAgent({ cluster: `gap-${how === "paused"}` });
    if (how === "paused") await sweeper.pause();
    else proxy.cut();
    await killed.kill();
    const endable = (await leaseUntil(killed)) + lease.graceMs;
    await until(async () => (await databaseNow()).getTime() > endable + lease.leaseMs, within);
    expect(await sessionOf(agent)).toMatchObject({ state: "SERVING" });

    const backAt = (await databaseNow()).getTime();
    if (how === "paused") sweeper.resume();
    else proxy.mend();
    expect(await lostAt(agent)).toBeGreaterThanOrEqual(backAt + lease.leaseMs + lease.graceMs);
  },
);

test("a session whose stream ended while the database was away is ended when it is back, by its own replica", async () => {
  const proxy = await databaseProxy(database);
  const [server] = await startReplicas(1, { database, databaseUrl: proxy.url, flags });
  const agent = await server.scriptedAgent({ cluster: "forgotten" });
  proxy.cut();
  await agent.goodbye();
  await server.process.untilLine("the end of a session could not be recorded", within);
  expect(await sessionOf(agent)).toMatchObject({ state: "SERVING" });
  proxy.mend();
  const row = await until(async () => {
    const found = await sessionOf(agent);
    return found.state === "ENDED" && found;
  }, within);
  expect(row.end_reason).toBe("CONNECTION_LOST");
});
