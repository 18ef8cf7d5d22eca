/** The folder of an agent is copied to a second host, and both dial. */
import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { Agent_State } from "@bowline/contract/agents";
import { ProductPublish_State } from "@bowline/contract/products";
import { temporaryFolder, until } from "@bowline/testing";
import { startHost } from "../world/hosts.ts";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

export const cloned: Scenario = {
  number: 30,
  title:
    "an agent cloned to a second host: neither gets a command until an operator decides, and nothing is done twice",
  tries: ["A", "B", "C", "I"],
  run,
};

async function run(world: World): Promise<void> {
  const place = await world.place();
  const host = await place.host();
  const id = await host.agentId();
  await place.publish("first");
  await place.settled();
  const agent = () => place.api().agents.getAgent({ id });

  const dataDir = temporaryFolder();
  cpSync(host.dataDir, dataDir, { recursive: true });
  const second = startHost(place.url, { dataDir }); // with an identity of its own
  const waiting = await world.fault("two hosts are one agent", async () => {
    await world.within("the agent is in CONFLICT", 60_000, async () => (await agent()).state === Agent_State.CONFLICT);
    const published = await place.publish("first");
    await until(async () => (await place.session(id)).state === "ENDED", {
      withinMs: 60_000,
      what: "nobody is served",
    });
    assert.equal(published.commands.length, 0); // whom it would go to nobody knows yet
    await second.kill();
    return published;
  });
  assert.equal(second.ledger().length, 0);
  await place.api().agents.releaseAgent({ id });
  await host.kill(); // else it looks again within a minute
  host.again();
  await place.serving(id);
  await place.settled();
  const live = async () =>
    (await place.api().publishes.getProductPublish({ id: waiting.id })).state === ProductPublish_State.LIVE;
  await world.within("what waited for the decision is LIVE", 60_000, live);
  await place.settled();
}
