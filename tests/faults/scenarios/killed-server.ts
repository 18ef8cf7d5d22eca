/** Scenarios 1, 2, 3 and 8: replicas that are killed at one step of a publish, and started again in its place. */
import assert from "node:assert/strict";
import type { ProcessEnd, TestServer } from "@bowline/testing";
import type { Place } from "../world/place.ts";
import type { World } from "../world/world.ts";

export interface Killed {
  /** Its crash point. */
  at: string;
  /** Whether the call is made to the one that dies. */
  asked: boolean;
  /** Whether the agent dials the one that dies. */
  dialled: boolean;
}

export async function killedServer(world: World, { at, asked, dialled }: Killed): Promise<void> {
  const place = await world.place();
  const doomed = await world.beside({ env: { BOWLINE_FAULT: at } });
  const host = await place.host({ url: dialled ? doomed.url : place.url });
  const call = await place.prepare("first");
  const { died, answer } = await world.fault(`killed at ${at}`, async () => {
    const answer = await place.once(asked ? { ...call, url: doomed.url } : call);
    return { answer, died: await untilKilled(place, doomed) };
  });
  assert.equal(died.signal, "SIGKILL");
  assert.equal(answer.outcome, asked ? "unknown" : "ok");
  const { epoch } = await place.session(await host.agentId());

  const again = await doomed.again({ env: {} });
  const repeated = await place.call({ ...call, url: again.url });
  assert.equal(repeated.outcome, "ok");
  if (dialled) await place.serving(await host.agentId(), { above: epoch });
  await place.settled();
  for (const { command } of repeated.commands) {
    const row = await place.row(command);
    assert.deepEqual([row.state, row.attempt, row.failures], ["SUCCEEDED", 1, 0]);
  }
}

/** Receipts and results of one moment share a transaction, so a publish may pass a point fewer times than others. */
const mostPublishes = 5;
/** Its commands end after the replica is back, where it is killed under them. */
const settledWithinMs = 120_000;

async function untilKilled(place: Place, { process }: TestServer): Promise<ProcessEnd> {
  for (let publishes = 1; publishes <= mostPublishes; publishes += 1) {
    const settled = place.settled(settledWithinMs).then(() => undefined);
    const died = await Promise.race([process.ended, settled]);
    if (died !== undefined) return died;
    await place.publish("first");
  }
  throw new Error(`nothing killed the replica in ${mostPublishes} publishes`);
}
