/** Scenarios 1, 2, 3 and 8: replicas that are killed at one step of a publish, and started again in its place. */
import assert from "node:assert/strict";
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
    return { answer, died: await doomed.process.ended };
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
