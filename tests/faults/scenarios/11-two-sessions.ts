/** An agent has a second session while its first still stands, as after a network that let one end believe. */
import assert from "node:assert/strict";
import { scriptedResult } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";
import { patient, settledAgent, takesEffect } from "./scripted.ts";

export const twoSessions: Scenario = {
  number: 11,
  title: "two sessions of one identity: only the newest has a say",
  tries: ["A", "C", "D", "E"],
  run,
};

async function run(world: World): Promise<void> {
  const other = await world.beside();
  // The second session is at the same replica, and at another one.
  for (const url of [world.shared.url, other.url]) {
    const place = await world.place();
    const agent = await settledAgent(place, "first");
    const old = agent.session();
    const published = await place.publish("first");
    const command = await agent.nextCommand({ of: published.command, ...patient });
    takesEffect(place, agent, await agent.receive(command));
    await world.within("it runs", 30_000, async () => (await place.row(command.commandId)).state === "RUNNING");

    const { commandId, attempt } = command;
    world.history.append({ kind: "stale", command: commandId, attempt, mark: "SAID_BY_THE_OLD" });
    const newer = await world.fault("a second session", async () => {
      const opened = await agent.connect({ url, sync: false });
      old.send({
        case: "deployResult",
        value: scriptedResult(command, { failed: "SAID_BY_THE_OLD", worthRetry: false }),
      });
      return opened;
    });
    await newer.sync({ last: true, journal: [{ commandId, attempt, phase: "RUNNING" }] });
    assert.ok(
      ["CLOSED", "SUPERSEDED", "SESSION_SUPERSEDED"].includes((await old.ended).reason),
      (await old.ended).reason,
    );
    const row = await place.row(commandId);
    assert.deepEqual([row.state, row.attempt, row.bound_epoch], ["RUNNING", 1, newer.greeting.epoch]);
    assert.equal(await newer.report(command, { succeeded: true }), "RECORDED");
    await place.settled();
  }
}
