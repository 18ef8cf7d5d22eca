/** A middlebox that ends what is idle, and now and then what is not, without a word. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { startTcpProxy } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

const rounds = 3;

export const idleStreams: Scenario = {
  number: 14,
  title: "a proxy that kills streams at any moment: each publish gets through, once",
  tries: ["A", "B", "C", "E", "F"],
  run,
};

async function run(world: World): Promise<void> {
  const proxy = await startTcpProxy({ host: "127.0.0.1", port: Number(new URL(world.shared.url).port) });
  const place = await world.place();
  const host = await place.host({ url: `http://${proxy.host}:${proxy.port}`, ways: { workMs: 200 } });
  const agentId = await host.agentId();
  const published: string[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const { epoch } = await place.session(agentId);
    const call = await place.publish(world.random.pick(["first", "second"]));
    published.push(call.command);
    await world.fault("a stream is killed", async () => {
      await sleep(world.random.between(0, 600));
      proxy.cut();
      await sleep(world.random.between(0, 200));
      proxy.mend();
    });
    await place.serving(agentId, { above: epoch, boundMs: 60_000 });
  }
  await place.settled();
  for (const command of published) {
    const { state, failures } = await place.row(command);
    assert.ok(["SUCCEEDED", "SUPERSEDED"].includes(state), `${command} is ${state}`);
    assert.equal(failures, 0);
  }
}
