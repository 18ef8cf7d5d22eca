/** The database commits, and the connection ends before it can say so: of a publish, of a claim, of a result. */
import assert from "node:assert/strict";
import { databaseProxy, type TcpProxy } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { Place } from "../world/place.ts";
import type { World } from "../world/world.ts";

export const commitAnswerLost: Scenario = {
  number: 32,
  title: "a COMMIT whose answer is lost: 503 and not 202, and whoever repeats finds what was done, once",
  tries: ["A", "B", "C", "D", "H"],
  run,
};

async function run(world: World): Promise<void> {
  const way = await databaseProxy(world.shared.database);
  const replica = await world.beside({ databaseUrl: way.url });
  const place = await world.place();
  place.url = replica.url;
  const host = await place.host();
  await place.publish("first");
  await place.settled();

  await ofPublish(world, place, way);
  await ofAgent(world, place, way, "ASSIGNED");
  await ofAgent(world, place, way, "SUCCEEDED");
  assert.equal(host.standing().size, 2);
}

async function ofPublish(world: World, place: Place, way: TcpProxy): Promise<void> {
  const call = await place.prepare("first");
  const trap = way.trap({ up: 'insert into "product_publishes"' }, { down: "COMMIT" });
  const answer = await world.fault("the COMMIT of a publish is not heard of", async () => {
    const answered = place.once(call);
    (await trap.caught).cut();
    return answered;
  });
  assert.deepEqual([answer.outcome, answer.reason], ["unknown", "COMMIT_UNKNOWN"]);
  const repeated = await place.call(call);
  assert.equal(repeated.outcome, "ok");
  await place.settled();
  const { state, attempt } = await place.row(repeated.command);
  assert.deepEqual([state, attempt], ["SUCCEEDED", 1]);
}

/** Of the statement that brings a command into this state. */
async function ofAgent(world: World, place: Place, way: TcpProxy, state: string): Promise<void> {
  const trap = way.trap(
    { up: state === "ASSIGNED" ? "SET state = 'ASSIGNED'" : "outcome_attempt" },
    { down: "COMMIT" },
  );
  const published = await world.fault(`the COMMIT of ${state} is not heard of`, async () => {
    const answer = await place.publish("first", { url: world.shared.url });
    (await trap.caught).cut();
    return answer;
  });
  await place.settled();
  const row = await place.row(published.command);
  assert.deepEqual([row.state, row.failures], ["SUCCEEDED", 0]);
}
