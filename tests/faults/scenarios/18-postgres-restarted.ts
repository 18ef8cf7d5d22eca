/** PostgreSQL is stopped in order and started, and is killed and recovers, under work. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { databaseAt, databaseProxy, startEmbeddedPostgres, temporaryFolder } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

const recoversWithinMs = 60_000;

export const postgresRestarted: Scenario = {
  number: 18,
  title: "Postgres restarted, in order and by kill -9: streams stay, and what was accepted goes on",
  tries: ["A", "B", "C", "D", "F", "H"],
  run,
};

async function run(world: World): Promise<void> {
  const folder = temporaryFolder();
  const first = await startEmbeddedPostgres(folder);
  const way = await databaseProxy({ address: first.connection });
  const server = await world.server({ database: databaseAt(way.url) });
  const place = await world.place(server);
  const host = await place.host({ ways: { workMs: 200 } });
  const agentId = await host.agentId();
  await place.publish("first");
  await place.settled();
  const { epoch } = await place.session(agentId);

  const during = await world.fault("stopped and started", async () => {
    const running = await place.publish("first");
    const stopped = first.stop();
    const waiting = place.publish("second");
    await stopped;
    const second = await startEmbeddedPostgres(folder);
    way.redirect({ path: join(second.connection.host, `.s.PGSQL.${second.connection.port}`) });
    const answers = [running, await waiting];
    process.kill(second.pid(), "SIGKILL"); // its supervisor starts it again
    return [...answers, await place.publish("third")];
  });
  const after = await place.publish("fourth");
  await place.settled(recoversWithinMs);
  for (const { command } of [...during, after]) {
    const { state, failures } = await place.row(command);
    assert.deepEqual([state, failures], ["SUCCEEDED", 0]);
  }
  assert.equal((await place.session(agentId)).epoch, epoch); // its stream never broke
}
