/** A host dies for good, with commands in every state, and an operator says so. */
import assert from "node:assert/strict";
import { until } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

export const hostDies: Scenario = {
  number: 35,
  title:
    "a host dies for good and is retired: what it owed ends, the others go on, and the next host gets what is wanted",
  tries: ["A", "B", "C", "D", "I"],
  run,
};

async function run(world: World): Promise<void> {
  const place = await world.place();
  const gone = await place.host();
  const stays = await place.host();
  const [goneId, staysId] = [await gone.agentId(), await stays.agentId()];
  const removed = await place.publish("removed");
  await place.publish("first");
  await place.settled();

  gone.behave({ workMs: 600_000 }); // it is at work when it dies
  const running = await place.publish("first");
  const byAgent = async (agentId: string, ids: readonly string[]) => {
    const rows = await Promise.all(ids.map((id) => place.row(id)));
    return rows.find(({ agent_id: agent }) => agent === agentId);
  };
  const ids = running.commands.map(({ command }) => command);
  const isAtWork = async () => (await byAgent(goneId, ids))?.state === "RUNNING";
  await until(isAtWork, { withinMs: 60_000, what: "it is at work" });
  await world.fault("the host dies", async () => {
    await gone.kill();
    await place.unpublish(removed.id);
    const staysDone = async () => (await byAgent(staysId, ids))?.state === "SUCCEEDED";
    await world.within("the other host goes on", 60_000, staysDone);
    const retire = async () => (await place.api().agents.retireAgent({ id: goneId })).id;
    await until(retire, { withinMs: 60_000, what: "its session has ended, and it is retired" });
  });
  await place.settled();
  assert.equal((await byAgent(goneId, ids))?.state, "LOST");

  const next = await place.host();
  await world.within("the next host has what is wanted", 60_000, () => next.standing().size === 2);
  await place.settled();
}
