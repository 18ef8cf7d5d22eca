/** Scripted agents of scenarios: what they do as any agent would, besides the part that matters. */
import type { DeployCommand } from "@bowline/contract/agent";
import { Deployment_Desired, type Deployment } from "@bowline/contract/deployments";
import type { ScriptedAgent } from "@bowline/testing";
import { contentOf } from "../agent/content.ts";
import type { Place } from "../world/place.ts";

/** A push may have to wait for its second (5 s), or for a retry. */
export const patient = { withinMs: 60_000 };

/** A scripted agent in the place, with a session, that has its data plane and the first version of `product`. */
export async function settledAgent(place: Place, product: string): Promise<ScriptedAgent> {
  const agent = await place.scripted();
  await agent.connect();
  await place.publish(product);
  const done = new Set<string>();
  while (done.size < 2) {
    const command = await agent.nextCommand(patient);
    if (done.has(command.commandId)) continue; // it was pushed again before its receipt had come
    done.add(command.commandId);
    await carryOut(place, agent, command);
  }
  await place.settled();
  return agent;
}

/** Fetches, sends the receipt, has the effect, and tells the result. */
export async function carryOut(place: Place, agent: ScriptedAgent, command: DeployCommand): Promise<void> {
  const spec = await agent.receive(command);
  takesEffect(place, agent, spec);
  await agent.report(command, { succeeded: true });
}

/** Appends the effect of a spec at a scripted agent, which has no host that would. */
export function takesEffect({ history }: Place, agent: ScriptedAgent, spec: Deployment): void {
  const about = { deployment: spec.id, generation: spec.generation, content: contentOf(spec) };
  const applied = spec.desired === Deployment_Desired.ABSENT ? "removed" : "applied";
  for (const what of ["begun", applied, "ended"] as const)
    history.append({ kind: "effect", host: agent.agentId, agent: agent.agentId, pid: 0, what, ...about });
}
