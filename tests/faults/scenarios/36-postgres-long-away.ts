/** PostgreSQL is away for longer than every lease, and comes back to servers that have waited. */
import assert from "node:assert/strict";
import { type ScriptedAgent, databaseProxy, type TcpProxy, testDatabase, type TestServer } from "@bowline/testing";
import { sql } from "kysely";
import type { Scenario } from "../scenario.ts";
import type { Place } from "../world/place.ts";
import type { World } from "../world/world.ts";
import { patient, settledAgent, takesEffect } from "./scripted.ts";

/** Production: 15 s and 30 s. */
const lease = { leaseMs: 1_500, graceMs: 3_000 };
const flags = [
  ...["--lease-ms", String(lease.leaseMs), "--lease-grace-ms", String(lease.graceMs)],
  ...["--heartbeat-interval-ms", "1000", "--silence-limit-ms", "300000"], // nobody is silent here
];
const awayMs = 3 * lease.leaseMs + lease.graceMs;
/** A run that takes too long by the server's clock: its time passes while nobody can hear that it ended. */
const limits = { run_timeout: "3s", grace: "2s" };

export const postgresLongAway: Scenario = {
  number: 36,
  title: "Postgres away for longer than every lease: 503 meanwhile, no session ended, no attempt spent",
  tries: ["A", "C", "D", "F"],
  run,
};

async function run(world: World): Promise<void> {
  const database = await testDatabase();
  const ways: TcpProxy[] = [];
  const start = async (options: Parameters<World["server"]>[0]): Promise<TestServer> => {
    const way = await databaseProxy(database);
    ways.push(way);
    return world.server({ ...options, databaseUrl: way.url, flags });
  };
  const a = await start({ database });
  const b = await start({ beside: a });
  const sides = await Promise.all([a, b].map((server) => prepared(world, server)));

  await world.fault("Postgres is away", async () => {
    for (const way of ways) way.cut();
    const from = performance.now();
    const calls = await Promise.all(sides.map(({ call }) => call));
    while (performance.now() - from < awayMs) {
      for (const [at, { place, agent }] of sides.entries()) {
        const call = calls[at];
        assert.equal(call === undefined ? "" : (await place.once(call)).outcome, "failed"); // 503, never a false 202
        await agent.heartbeat();
      }
    }
    for (const { agent, command } of sides) {
      agent.send({ case: "deployResult", value: { commandId: command, attempt: 1, outcome: 1 } });
      assert.equal((await agent.next("messageRefused")).reason, "DATABASE_UNAVAILABLE");
      assert.equal((await agent.newToken()).split(".").length, 3);
    }
    for (const way of ways) way.mend();
  });
  const { rows } = await sql<{ now: Date }>`SELECT clock_timestamp() AS now`.execute(database.db);
  const backAt = rows[0]?.now.getTime() ?? 0;
  // Until a sweeper would have ended them, had it not cared.
  const until = backAt + lease.leaseMs + 2 * lease.graceMs - 1_000;
  await world.within("a sweeper has had its turn", 60_000, async () => Date.now() > until);
  for (const { place, agent, command, call } of sides) {
    const { state, epoch } = await place.session(agent.agentId);
    assert.deepEqual([state, epoch], ["SERVING", 1]);
    const row = await place.row(command);
    assert.deepEqual([row.attempt, row.failures], [1, 0]);
    const again = await place.call(await call);
    assert.equal(again.outcome, "ok");
    await agent.report({ commandId: command, attempt: 1 }, { succeeded: true });
    const next = await agent.nextCommand({ of: again.command, ...patient });
    takesEffect(place, agent, await agent.receive(next));
    await agent.report(next, { succeeded: true });
    await place.settled();
  }
}

interface Side {
  place: Place;
  agent: ScriptedAgent;
  /** It runs. */
  command: string;
  /** What is tried while the database is away. */
  call: ReturnType<Place["prepare"]>;
}

async function prepared(world: World, server: TestServer): Promise<Side> {
  const place = await world.place(server);
  const agent = await settledAgent(place, "first");
  const { command: commandId } = await place.publish("first", { limits });
  const command = await agent.nextCommand({ of: commandId, ...patient });
  takesEffect(place, agent, await agent.receive(command));
  const runs = async () => (await place.row(commandId)).state === "RUNNING";
  await world.within("it runs", 30_000, runs);
  return { place, agent, command: commandId, call: Promise.resolve(await place.prepare("first")) };
}
