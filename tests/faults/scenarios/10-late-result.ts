/** An agent whose first try was given up says late what became of it. */
import assert from "node:assert/strict";
import type { DeployCommand } from "@bowline/contract/agent";
import { scriptedResult } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";
import { patient, settledAgent, takesEffect } from "./scripted.ts";

export const lateResult: Scenario = {
  number: 10,
  title: "an old attempt's result arrives late: the attempt after it has the only word",
  tries: ["A", "C", "D", "E"],
  run,
};

async function run(world: World): Promise<void> {
  const place = await world.place();
  const agent = await settledAgent(place, "first");
  const published = await place.publish("first");
  const first = await agent.nextCommand({ of: published.command, ...patient });
  await agent.receive(first);
  assert.equal(await agent.report(first, { failed: "FIRST_TRY" }), "RECORDED");
  // The first may have been pushed twice.
  const isSecond = (one: DeployCommand) => one.commandId === published.command && one.attempt === first.attempt + 1;
  const second = await agent.next("deployCommand", isSecond, patient);
  const spec = await agent.receive(second);
  await world.within(
    "the second attempt runs",
    30_000,
    async () => (await place.row(second.commandId)).state === "RUNNING",
  );

  const about = { commandId: first.commandId, attempt: first.attempt };
  for (const mark of ["LATE_ONE", "LATE_TWO"]) {
    world.history.append({ kind: "stale", command: first.commandId, attempt: first.attempt, mark });
    agent.send({ case: "deployResult", value: scriptedResult(about, { failed: mark, worthRetry: false }) });
    const ack = await agent.next("resultAck", ({ attempt }) => attempt === first.attempt);
    assert.equal(ack.disposition, 3, "OBSOLETE"); // or the attempt's outcome, which is not this one
  }
  agent.send({ case: "deployResult", value: scriptedResult(about, { succeeded: true }) });
  await agent.heartbeat(); // what was said before it has been heard
  const row = await place.row(second.commandId);
  assert.deepEqual([row.state, row.attempt, row.failures], ["RUNNING", 2, 1]);
  takesEffect(place, agent, spec);
  assert.equal(await agent.report(second, { succeeded: true }), "RECORDED");
  await place.settled();
  assert.equal((await place.row(second.commandId)).outcome_attempt, 2);
}
