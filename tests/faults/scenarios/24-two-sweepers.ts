/** A replica dies, and two others find what it held, and what is due, at the same time. */
import assert from "node:assert/strict";
import type { Scenario } from "../scenario.ts";
import type { Host } from "../world/hosts.ts";
import type { World } from "../world/world.ts";

const hosts = 3;
/** A lease, a grace, two sweepers' turns, and an agent's way to another replica. */
const takenOverWithinMs = 90_000;

export const twoSweepers: Scenario = {
  number: 24,
  title: "two sweepers at once: sessions of a dead replica end once, and what is due is due once",
  tries: ["A", "B", "C", "D", "E", "F"],
  run,
};

async function run(world: World): Promise<void> {
  const [dies] = await Promise.all([world.beside(), world.beside()]); // the shared one sweeps, too
  const place = await world.place();
  const made: Host[] = [];
  for (let count = 0; count < hosts; count += 1) made.push(await place.host({ url: dies.url }));
  await place.publish("first");
  await place.settled();
  const ids = await Promise.all(made.map((host) => host.agentId()));
  const epochs = await Promise.all(ids.map(async (id) => (await place.session(id)).epoch));

  // Tries that fail: their retries fall due while two look for them.
  for (const host of made) host.behave({ failsWith: "not today" });
  const failing = await place.publish("first", { limits: { max_retries: 5 } });
  const { db } = place;
  await world.within("each has failed once", 60_000, async () => {
    const rows = await Promise.all(failing.commands.map(({ command }) => place.row(command)));
    return rows.every(({ failures }) => failures > 0);
  });
  await world.fault("a replica dies", async () => {
    await dies.kill();
    for (const host of made) host.behave({ failsWith: "" });
    const ended = async () => {
      const rows = await db.selectFrom("sessions").selectAll().where("agent_id", "in", ids).execute();
      return rows.every(({ state }) => state === "ENDED");
    };
    await world.within("its sessions are ended by others", takenOverWithinMs, ended);
    await world.together(
      made.map(async (host, at) => {
        await host.kill();
        host.again({ url: world.shared.url });
        await place.serving(ids[at] ?? "", { above: epochs[at] ?? 0 });
      }),
    );
  });
  await place.settled();
  const sessions = await Promise.all(ids.map((id) => place.session(id)));
  assert.deepEqual(
    sessions.map(({ epoch }) => epoch),
    epochs.map((epoch) => epoch + 1),
  );
  for (const { command } of failing.commands) {
    const { state, attempt, failures } = await place.row(command);
    assert.deepEqual([state, attempt], ["SUCCEEDED", failures + 1]); // each attempt was one try
  }
}
