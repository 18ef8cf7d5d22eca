/** The standby that takes over lacks the last commits: another history begins, and agents have seen more of the old one. */
import assert from "node:assert/strict";
import { AcceptAgentRequest_Side as Side, Agent_State } from "@bowline/contract/agents";
import { startPostgresPair } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";

export const tailLost: Scenario = {
  number: 20,
  title:
    "failover that loses the tail: agents bring it to light and wait for a decision; what nobody had received is lost, as documented",
  tries: ["A", "B", "D", "F", "I"],
  run,
};

async function run(world: World): Promise<void> {
  const pair = await startPostgresPair({ synchronous: false });
  const server = await world.server({ database: pair.database });
  const place = await world.place(server);
  const host = await place.host();
  const id = await host.agentId();
  await place.publish("first");
  await place.settled();
  const agent = () => place.api().agents.getAgent({ id });

  const lost = await world.fault("failover without the tail", async () => {
    await pair.loseTail();
    const done = await place.publish("first");
    await place.settled();
    await host.kill();
    const unseen = await place.publish("second"); // no agent is there to receive it
    await server.stop();
    await pair.failOver();
    return [done, unseen];
  });
  const why = "it was committed on the primary only, whose standby is asynchronous";
  for (const { commands } of lost)
    for (const { command, deployment } of commands) {
      world.history.append({ kind: "forgiven", invariant: "A", subject: command, why });
      world.history.append({ kind: "forgiven", invariant: "B", subject: deployment, why });
      // Its content only the agent knows: the server keeps the number, and never gives it to another content.
      world.history.append({ kind: "forgiven", invariant: "H", subject: deployment, why });
    }
  await server.again();
  host.again();
  await world.within(
    "the agent waits for a decision",
    90_000,
    async () => (await agent()).state === Agent_State.AWAITING_DECISION,
  );
  const standing = host.standing();
  await place.api().agents.acceptAgent({ id, side: Side.AGENT });
  await world.within("the agent is served", 90_000, async () => (await agent()).state === Agent_State.ENROLLED);
  assert.deepEqual([...host.standing()], [...standing]); // nothing was rolled back or removed
  const next = await place.publish("first");
  await place.settled();
  assert.equal((await place.row(next.command)).state, "SUCCEEDED");
}
