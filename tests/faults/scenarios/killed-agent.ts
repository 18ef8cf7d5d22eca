/** Scenarios 5, 6 and 7: agents that are killed at steps of a command, and started again on the same host. */
import assert from "node:assert/strict";
import type { World } from "../world/world.ts";

/** One agent per step, all at once: each in a cluster of its own. */
export async function killedAgents(world: World, steps: readonly string[]): Promise<void> {
  await world.together(steps.map((step) => killedAgent(world, step)));
}

async function killedAgent(world: World, step: string): Promise<void> {
  const place = await world.place();
  const host = await place.host({ env: { BOWLINE_FAULT: step } });
  const published = await place.publish("first");
  const died = await world.fault(`killed at ${step}`, () => host.process.ended);
  assert.deepEqual(died, { code: null, signal: "SIGKILL" });
  const { epoch } = await place.session(await host.agentId());

  const again = host.again();
  await place.serving(await host.agentId(), { above: epoch });
  await place.settled();
  const row = await place.row(published.command);
  assert.deepEqual([row.state, row.attempt, row.failures], ["SUCCEEDED", 1, 0]);
  assert.equal(again.standing().size, 2); // the data plane and the routes
}
