/** Scripted agents of scenarios: what they have to do before the part that matters. */
import type { ScriptedAgent } from "@bowline/testing";
import type { Place } from "../world/place.ts";

/** A scripted agent in the place, with a session, that has its data plane and the first version of `product`. */
export async function settledAgent(place: Place, product: string): Promise<ScriptedAgent> {
  const agent = await place.scripted();
  await agent.connect();
  await place.publish(product);
  for (let count = 0; count < 2; count += 1) {
    const command = await agent.nextCommand(patient);
    await agent.receive(command);
    await agent.report(command, { succeeded: true });
  }
  await place.settled();
  return agent;
}

/** A push may have to wait for its second (5 s), or for a retry. */
export const patient = { withinMs: 60_000 };
