/** Agents that keep themselves going, behind a load balancer. */
import { expect, test } from "@jest/globals";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { startBalancer } from "./balancer.ts";
import { type FleetAgent, startFleetAgent } from "./fleet-agent.ts";
import { enrolScriptedAgent } from "./scripted-agent.ts";
import { startReplicas } from "./server.ts";
import { until } from "./until.ts";

/** Three processes at once on a busy machine. */
const within = { withinMs: 30_000 };

test("a fleet agent carries out what is published, and goes to another replica when its own is stopped", async () => {
  const [a, b] = await startReplicas(2);
  const balancer = await startBalancer([a.url, b.url]);
  await until(() => balancer.ready().length === 2);
  const { id } = await a.operator.cluster("fleet");
  const fleet: FleetAgent[] = [];
  for (let count = 0; count < 3; count += 1) {
    const token = await a.operator.registrationToken(id);
    fleet.push(startFleetAgent(await enrolScriptedAgent({ url: balancer.url, token })));
  }
  await until(() => fleet.every((agent) => agent.session() !== undefined), within);
  const { replica_id: held } = await a.database.db
    .selectFrom("sessions")
    .select("replica_id")
    .orderBy("agent_id")
    .executeTakeFirstOrThrow();
  const [leaves, stays] = held === a.replicaId ? [a, b] : [b, a];
  const published = async (product: string) => {
    const publish = await stays.operator.publish(product, { to: "fleet" });
    await until(async () => (await stays.operator.publishOf(publish.id)).state === State.LIVE, within);
  };
  await published("one");
  await leaves.stop();
  await until(() => balancer.ready().join() === stays.url);
  await published("two");
  await until(() => fleet.every((agent) => agent.effects.size >= 3), within); // LIVE is of routes, not of the data plane
  for (const agent of fleet) expect([...agent.effects.values()]).toEqual([1, 1, 1]);
  expect(Math.max(...fleet.map((agent) => agent.sessions()))).toBe(2);
}, 180_000);
