/** An administrator ends all of a database's connections, in the middle of whatever they did. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { sql } from "kysely";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

const rounds = 6;

export const backendsTerminated: Scenario = {
  number: 21,
  title:
    "all backends terminated in mid-commit, again and again: each call is done once or not, and says which or that nobody knows",
  tries: ["A", "B", "C", "D", "H"],
  run,
};

async function run(world: World): Promise<void> {
  const server = await world.server();
  const place = await world.place(server);
  await place.host();
  const products = ["first", "second", "third"];
  await world.together(products.map(async (product) => void (await place.publish(product))));
  await place.settled();

  const terminating = { ended: false };
  const published: string[] = [];
  const publishing = products.map(async (product) => {
    while (!terminating.ended) published.push((await place.publish(product)).command);
  });
  const killing = world.fault("backends are terminated", async () => {
    for (let round = 0; round < rounds; round += 1) {
      await sleep(world.random.between(50, 700));
      await sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()`.execute(place.db);
    }
    terminating.ended = true;
  });
  await world.together([killing.finally(() => (terminating.ended = true)), ...publishing]);
  await place.settled();
  for (const command of published) {
    const { state, failures } = await place.row(command);
    assert.ok(["SUCCEEDED", "SUPERSEDED"].includes(state), state);
    assert.equal(failures, 0);
  }
}
