/**
 * The server pushes what it has no receipt for, again and again: here over five
 * sessions, since each of the first four processes dies before its journal has it.
 */
import assert from "node:assert/strict";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

const times = 5;

export const pushedFiveTimes: Scenario = {
  number: 9,
  title: "the same command pushed five times: one start, one effect, one outcome",
  tries: ["A", "B", "C", "E"],
  run,
};

async function run(world: World): Promise<void> {
  const place = await world.place();
  let host = await place.host();
  await place.publish("first");
  await place.settled();
  await host.kill();
  const published = await place.publish("first");
  await world.fault("killed at each push", async () => {
    for (let pushes = 1; pushes < times; pushes += 1) {
      host = host.again({ env: { BOWLINE_FAULT: "intake.before-journal" } });
      assert.equal((await host.process.ended).signal, "SIGKILL");
    }
  });
  host = host.again();
  await place.settled();
  const row = await place.row(published.command);
  assert.deepEqual([row.state, row.attempt, row.failures], ["SUCCEEDED", 1, 0]);
  const { epoch } = await place.session(await host.agentId());
  assert.ok(epoch > times, `each push was to a session of its own: epoch ${epoch}`);
  const begun = host.ledger().filter(({ what, generation }) => what === "begun" && generation === 2);
  assert.equal(begun.length, 1);
}
