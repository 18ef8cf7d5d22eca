/** Nothing passes between an agent and the servers for ten minutes, and neither end is told. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { startTcpProxy } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

const partitionMs = 600_000;
/** Of production: 15 s and 45 s. Both ends have noticed long before the end. */
const flags = ["--heartbeat-interval-ms", "1000", "--silence-limit-ms", "4000"];
/** The agent's longest wait between dials is a minute. */
const backWithinMs = 90_000;

export const partition: Scenario = {
  number: 13,
  title: "a partition of ten minutes: what the agent had goes on, what was accepted meanwhile comes when it is over",
  tries: ["A", "B", "C", "E", "F", "H"],
  run,
};

async function run(world: World): Promise<void> {
  const replica = await world.beside({ flags });
  const proxy = await startTcpProxy({ host: "127.0.0.1", port: Number(new URL(replica.url).port) });
  const place = await world.place();
  const host = await place.host({ url: `http://${proxy.host}:${proxy.port}` });
  const agentId = await host.agentId();
  await place.publish("first");
  await place.settled();
  const { epoch } = await place.session(agentId);

  const [under, later, other] = await world.fault("nothing passes", async () => {
    host.behave({ held: true });
    const running = await place.publish("first");
    // Its receipt has come through, too: what the proxy holds from now on is not heard before the end.
    const isUnderWay = async () =>
      host.ledger().at(-1)?.what === "begun" && (await place.row(running.command)).state === "RUNNING";
    await world.within("it is under way", 60_000, isUnderWay);
    proxy.hold();
    host.behave({});
    await world.within("the effect comes without the server", 60_000, () => host.ledger().at(-1)?.what === "ended");
    const waiting = [await place.publish("first"), await place.publish("second")] as const;
    await world.within("the server has noticed", 60_000, async () => (await place.session(agentId)).state === "ENDED");
    await sleep(world.scale(partitionMs));
    return [running, ...waiting];
  });
  assert.equal((await place.row(under.command)).state, "RUNNING");
  proxy.cut(); // what was held is of connections that are long gone
  proxy.release();
  proxy.mend();
  await place.serving(agentId, { above: epoch, boundMs: backWithinMs });
  await place.settled();
  for (const { command } of [under, later, other]) {
    const row = await place.row(command);
    assert.deepEqual([row.state, row.attempt, row.failures], ["SUCCEEDED", 1, 0]);
  }
}
