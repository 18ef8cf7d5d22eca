/** The primary is lost while publishes come; its standby has every commit that was acknowledged. */
import assert from "node:assert/strict";
import { startPostgresPair } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

/** A promotion, servers' pools that find the new one, an agent's next word. */
const recoversWithinMs = 90_000;

export const synchronousFailover: Scenario = {
  number: 19,
  title: "failover to a synchronous standby: what was accepted is there, and what nobody was told is repeated",
  tries: ["A", "B", "C", "D", "F", "H"],
  run,
};

async function run(world: World): Promise<void> {
  const pair = await startPostgresPair({ synchronous: true });
  const server = await world.server({ database: pair.database });
  const place = await world.place(server);
  const host = await place.host({ ways: { workMs: 300 } });
  await place.publish("first");
  await place.settled();
  const { epoch } = await place.session(await host.agentId());

  const before = await place.publish("second");
  const during = await world.fault("failover", async () => {
    const failedOver = pair.failOver();
    const answers = await Promise.all([place.publish("first"), place.publish("third")]);
    await failedOver;
    return answers;
  });
  const after = await place.publish("fourth");
  await place.settled(recoversWithinMs);
  for (const { command } of [before, ...during, after]) {
    const { state, failures } = await place.row(command);
    assert.deepEqual([state, failures], ["SUCCEEDED", 0]);
  }
  assert.equal((await place.session(await host.agentId())).epoch, epoch); // its stream never broke
}
