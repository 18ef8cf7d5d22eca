/**
 * Cancels that come at any moment of a command: waiting, on its way, running,
 * done; over connections that overtake each other, callers' and the agent's.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { startTcpProxy } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { Place } from "../world/place.ts";
import type { World } from "../world/world.ts";

const products = 6;
/** About as long as a command takes here. */
const overtakenWithinMs = 300;
/** A cancel limit is 60 s; the agents here answer, so that it is far below. */
const convergesWithinMs = 30_000;

export const cancelRaces: Scenario = {
  number: 23,
  title:
    "cancels that race completion, over connections that overtake each other: each command ends once, and what is CANCELLED is not done afterwards",
  tries: ["A", "B", "C", "D", "G"],
  async run(world) {
    const proxy = await startTcpProxy({ host: "127.0.0.1", port: Number(new URL(world.shared.url).port) });
    const place = await world.place();
    place.url = `http://${proxy.host}:${proxy.port}`;
    const host = await place.host({ ways: { workMs: 250 } });
    await place.publish("ahead");
    await place.settled();
    const names = Array.from({ length: products }, (_, at) => `race-${at}`);
    await world.fault("connections overtake each other", async () => {
      proxy.reorder(overtakenWithinMs, () => world.random.next());
      await world.together(names.map((name) => race(world, place, name, world.random.between(0, 900))));
      await place.settled();
      proxy.reorder(0);
    });
    host.behave({ workMs: 0 });
    for (const name of names) await place.publish(name); // and the next one of each is carried out
    await place.settled();
  },
};

async function race({ within }: World, place: Place, product: string, waitMs: number): Promise<void> {
  const published = await place.publish(product);
  await sleep(waitMs);
  const answer = await place.cancel(published.command, convergesWithinMs);
  // Too late is an answer, too.
  const tooLate = answer.outcome === "failed";
  const isOver = async () => (await place.row(published.command)).ended_at !== null;
  await within("what was cancelled is over", convergesWithinMs, isOver);
  const { state } = await place.row(published.command);
  assert.ok(tooLate ? state === "SUCCEEDED" : ["CANCELLED", "SUCCEEDED"].includes(state), `${state} ${answer.reason}`);
}
