/** Clocks that are five minutes off: of two replicas, one each way, and of agents. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { until } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

const offMs = 300_000;
const preload = fileURLToPath(new URL("../world/shifted-clock.ts", import.meta.url));
const shifted = (ms: number) => ({ NODE_OPTIONS: `--import ${preload}`, BOWLINE_FAULTS_CLOCK_MS: String(ms) });
const bothWays = [-offMs, offMs];

export const clocks: Scenario = {
  number: 22,
  title:
    "clocks five minutes off: replicas serve by the database's time, an agent is refused with CLOCK_SKEW until its clock is right",
  tries: ["A", "B", "C", "E", "F"],
  run: (world) =>
    world.together([...bothWays.map((ms) => replica(world, ms)), ...bothWays.map((ms) => agent(world, ms))]),
};

async function replica(world: World, ms: number): Promise<void> {
  const off = await world.fault("a replica's clock is off", () => world.beside({ env: shifted(ms) }));
  const place = await world.place();
  const host = await place.host();
  const agentId = await host.agentId();
  const { epoch } = await place.session(agentId);
  await host.kill();
  const there = host.again({ url: off.url });
  const served = await place.serving(agentId, { above: epoch });
  assert.equal(served.replica_id, off.replicaId);
  const first = await place.publish("first", { url: off.url });
  await place.settled();
  await there.kill();
  there.again({ url: world.shared.url }); // and back to one that is right
  await place.serving(agentId, { above: served.epoch });
  const second = await place.publish("first");
  await place.settled();
  for (const { command } of [first, second]) {
    const { state, attempt } = await place.row(command);
    assert.deepEqual([state, attempt], ["SUCCEEDED", 1]);
  }
}

async function agent(world: World, ms: number): Promise<void> {
  const place = await world.place();
  const host = await place.host();
  const agentId = await host.agentId();
  await place.publish("first");
  await place.settled();
  const { epoch } = await place.session(agentId);
  await host.kill();
  const before = host.standing();
  const off = host.again({ env: shifted(ms) });
  const waiting = await world.fault("an agent's clock is off", async () => {
    await off.process.untilLine("CLOCK_SKEW", { withinMs: 60_000 });
    // Else it is claimed for a session that nobody has noticed to be over.
    const isOver = async () => (await place.session(agentId)).state === "ENDED";
    await until(isOver, { withinMs: 60_000, what: "the session before has ended" });
    const published = await place.publish("first");
    await until(async () => (await place.row(published.command)).state === "READY", {
      withinMs: 60_000,
      what: "it waits",
    });
    await off.kill();
    return published;
  });
  assert.equal(host.standing().size, before.size); // what runs stays
  host.again();
  await place.serving(agentId, { above: epoch });
  await place.settled();
  const { state, attempt } = await place.row(waiting.command);
  assert.deepEqual([state, attempt], ["SUCCEEDED", 1]);
}
