/** Somebody forgets a transaction: one that holds a row, and one that holds back what is cleaned up. */
import assert from "node:assert/strict";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

/** Production: a statement waits 30 s for a row at most. */
const heldMs = 8_000;

export const openTransaction: Scenario = {
  number: 26,
  title: "a transaction that is held open: who needs its rows waits, everybody else goes on, and then all of it ends",
  tries: ["A", "B", "C", "F", "H"],
  run,
};

async function run(world: World): Promise<void> {
  const place = await world.place();
  await place.host();
  const blocked = await place.publish("blocked");
  await place.publish("free");
  await place.settled();
  const deployment = blocked.commands[0]?.deployment ?? "";

  const waiting = await place.db.transaction().execute(async (tx) => {
    await tx.selectFrom("deployments").selectAll().where("id", "=", deployment).forUpdate().execute();
    return world.fault("a row is held", async () => {
      const from = performance.now();
      const answered = place.call(await place.prepare("blocked"));
      while (performance.now() - from < heldMs) {
        const free = await place.publish("free");
        const isDone = async () => (await place.row(free.command)).state === "SUCCEEDED";
        await world.within("what needs none of its rows goes on", 15_000, isDone);
      }
      return { answered };
    });
  });
  const answer = await waiting.answered;
  assert.equal(answer.outcome, "ok");
  await place.settled();
  assert.equal((await place.row(answer.command)).state, "SUCCEEDED");
}
