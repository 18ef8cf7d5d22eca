/** Replicas are restarted one after another behind a load balancer, under publishes that never stop. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { startBalancer, startFleetAgent, startServer, type TestServer } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { Place } from "../world/place.ts";
import type { World } from "../world/world.ts";

/** With real agents each, and with scripted ones. */
const places = 2;
const fleetAgents = 12;
/** Publishes that are carried out while one replica is away, and again when it is back. */
const meanwhile = 6;
/** Of production: 30 s and 15 s. */
const flags = ["--drain-spread-ms", "2000", "--heartbeat-interval-ms", "5000"];
const withinMs = 60_000;
/** Between a publish that is carried out and the next one there, at most. */
const pauseMs = 600;

export const rollingRestart: Scenario = {
  number: 28,
  title: "a rolling restart of replicas under load: no command fails, no attempt is spent, no call is lost",
  tries: ["A", "B", "C", "D", "E", "F", "H"],
  run,
};

async function run(world: World): Promise<void> {
  const first = await world.server({ flags });
  const others = [startServer({ flags, beside: first }), startServer({ flags, beside: first })];
  const replicas: TestServer[] = [first, ...(await Promise.all(others))];
  const balancer = await startBalancer(replicas.map(({ url }) => url));
  const load = { over: false, done: 0 };
  const commands: string[] = [];
  const under: Place[] = [];
  for (let at = 0; at < places; at += 1) {
    const place = await world.place(first);
    place.url = balancer.url;
    await place.host({ ways: { workMs: world.random.between(20, 200) } });
    under.push(place);
  }
  under.push(await withFleet(world, first, balancer.url));

  const publishing = under.map(async (place) => {
    while (!load.over) {
      const published = await place.publish(world.random.pick(["first", "second"]));
      const asked = published.commands.map(({ command }) => command);
      commands.push(...asked);
      await world.within("it is carried out", withinMs, async () => {
        const rows = await Promise.all(asked.map((command) => place.row(command)));
        return rows.every((row) => row.ended_at !== null);
      });
      load.done += 1;
      await sleep(world.random.between(0, pauseMs)); // the load is the publishes', not this program's
    }
  });
  const progress = async (what: string): Promise<void> => {
    const enough = load.done + meanwhile;
    await world.within(`publishes go on ${what}`, withinMs, () => load.done >= enough);
  };
  const rolling = world.fault("replicas are restarted", async () => {
    await progress("before");
    for (const [at, replica] of replicas.entries()) {
      assert.equal((await replica.stop()).code, 0);
      await balancer.looked();
      await progress("without it");
      const again = await replica.again();
      replicas[at] = again;
      await world.within("it gets connections again", withinMs, () => balancer.ready().includes(again.url));
      await progress("with it");
    }
  });
  await world.together([rolling.finally(() => (load.over = true)), ...publishing]);
  for (const place of under) await place.settled();
  const rows = await first.database.db.selectFrom("command_states").selectAll().execute();
  assert.ok(rows.length >= commands.length);
  for (const { command_id: command, state, attempt, failures } of rows) {
    // A newer publish takes the place of one that nobody has claimed yet.
    const due = state === "SUPERSEDED" ? ["SUPERSEDED", 0, 0] : ["SUCCEEDED", 1, 0];
    assert.deepEqual([state, attempt, failures], due, command);
  }
}

async function withFleet(world: World, server: TestServer, url: string): Promise<Place> {
  const place = await world.place(server);
  place.url = url;
  const agents = Array.from({ length: fleetAgents }, async () => startFleetAgent(await place.scripted()));
  for (const { agentId } of await Promise.all(agents)) await place.serving(agentId);
  return place;
}
