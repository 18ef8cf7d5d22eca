/** A deployment whose converge takes the agent's process with it, each time. */
import assert from "node:assert/strict";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

/** Two starts end with the agent; the third is not made. */
const deaths = 2;

export const killsItsAgent: Scenario = {
  number: 25,
  title: "a command that kills its agent: given up at its third start, and everything else goes on",
  tries: ["A", "B", "C", "D", "I"],
  run,
};

async function run(world: World): Promise<void> {
  const place = await world.place();
  let host = await place.host();
  await place.publish("good");
  const bad = await place.publish("bad");
  await place.settled();
  const deployment = bad.commands[0]?.deployment ?? "";

  host.behave({ killedBy: deployment });
  const deadly = await place.publish("bad", { limits: { max_retries: 0 } });
  await world.fault("the agent dies of it", async () => {
    for (let count = 0; count < deaths; count += 1) {
      assert.equal((await host.process.ended).signal, "SIGKILL");
      host = host.again();
    }
  });
  const beside = await place.publish("good");
  await place.settled();
  const row = await place.row(deadly.command);
  assert.deepEqual([row.state, row.reason, row.attempt], ["FAILED", "AGENT_CRASHED", 1]);
  assert.equal((await place.row(beside.command)).state, "SUCCEEDED");
  assert.equal(host.standing().get(deployment)?.generation, 1); // the last good one stays

  host.behave({ killedBy: "" });
  const mended = await place.publish("bad");
  await place.settled();
  assert.equal((await place.row(mended.command)).state, "SUCCEEDED");
}
