/** What is published while an agent is on its way to what came before. */
import assert from "node:assert/strict";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";
import { carryOut, patient, settledAgent, takesEffect } from "./scripted.ts";

export const newerGeneration: Scenario = {
  number: 34,
  title:
    "a newer generation committed between claim and fetch: what was claimed is what is fetched, and the newer one follows",
  tries: ["A", "B", "C", "H"],
  run,
};

async function run(world: World): Promise<void> {
  const place = await world.place();
  const agent = await settledAgent(place, "first");
  for (let round = 0; round < 3; round += 1) {
    const older = await place.publish("first");
    const command = await agent.nextCommand({ of: older.command, ...patient });
    const newer = await world.fault("a newer generation", () => place.publish("first"));
    const spec = await agent.receive(command);
    assert.equal(spec.generation, command.generation);
    assert.ok(
      JSON.stringify(spec.routes?.apiServices ?? spec.routes).includes(older.version),
      "the content of the older",
    );
    takesEffect(place, agent, spec);
    assert.equal(await agent.report(command, { succeeded: true }), "RECORDED");
    const next = await agent.nextCommand({ of: newer.command, ...patient });
    assert.equal(next.generation, command.generation + 1);
    await carryOut(place, agent, next);
    await place.settled();
  }
}
