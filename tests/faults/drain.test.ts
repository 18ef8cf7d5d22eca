/** Agents that move: from a replica that is stopped while another one runs, and after a session's life. */
import { expect, test } from "@jest/globals";
import { startReplicas, startServer, type TestServer, until } from "@bowline/testing";
import { refusalOf } from "@bowline/session";
import { openApi } from "../e2e/api.ts";
import { joinAgent, makePlace } from "../e2e/operating.ts";

const rowOf = ({ database }: TestServer, agentId: string) =>
  database.db.selectFrom("sessions").selectAll().where("agent_id", "=", agentId).executeTakeFirstOrThrow();
const leases = async ({ database }: TestServer) =>
  (await database.db.selectFrom("replicas").select("id").execute()).map(({ id }) => id);

test("a replica that is stopped says so, serves each agent until it leaves within the spread, takes nobody new, and is gone with the last", async () => {
  const [a, b] = await startReplicas(2, { flags: ["--drain-spread-ms", "30000"] });
  const agent = await a.scriptedAgent({ cluster: "leaves" });
  const late = await b.scriptedAgent({ cluster: "leaves" });
  expect(await leases(b)).toHaveLength(2);
  const stopped = a.stop();
  const old = agent.session();
  expect(await old.next("drain")).toMatchObject({ spreadMs: 30_000 });

  const ready = await fetch(`${a.url}/ready`, { headers: { connection: "close" } });
  expect([ready.status, await ready.json()]).toMatchObject([503, { checks: { replica: "draining" } }]);
  const refusal = refusalOf(await late.connect({ url: a.url }).catch((error: unknown) => error));
  expect(refusal).toMatchObject({ reason: "REPLICA_DRAINING" });
  expect(refusal.retryAfterMs).toBeGreaterThan(0);
  const { id } = await b.operator.cluster("leaves");
  const call = await fetch(`${a.url}/v1/operator/clusters/${id}`, {
    headers: { authorization: `Bearer ${a.adminToken}`, connection: "close" },
  });
  expect(call.status).toBe(200); // a load balancer may not have noticed yet
  const publish = await b.operator.publish("served", { to: "leaves" });
  const commands = publish.targets.map(({ commandId }) => commandId);
  const first = await agent.nextCommand(); // of this publish, or of the data plane that it needs
  await agent.receive(first);
  expect(await agent.report(first, { succeeded: true })).toBe("RECORDED");
  expect(commands).toHaveLength(2);
  expect(await rowOf(b, agent.agentId)).toMatchObject({ state: "SERVING", replica_id: a.replicaId });

  expect((await old.goodbye()).reason).toBe("CLOSED");
  expect(await stopped).toEqual({ code: 0, signal: null });
  expect(await rowOf(b, agent.agentId)).toMatchObject({ state: "ENDED", end_reason: "REPLICA_DRAINING" });
  expect(await leases(b)).toEqual([b.replicaId]);
  expect((await agent.connect({ url: b.url })).greeting).toMatchObject({ epoch: 2 });
});

test("asked a second time to stop, a replica waits for no agent", async () => {
  const [a] = await startReplicas(2, { flags: ["--drain-spread-ms", "300000"] });
  const agent = await a.scriptedAgent({ cluster: "hurries" });
  const stopped = a.stop();
  await agent.next("drain");
  a.process.kill("SIGTERM");
  expect(await agent.next("drain")).toMatchObject({ spreadMs: 0 });
  expect(await stopped).toEqual({ code: 0, signal: null });
});

test("after its life a session is asked to move: an agent comes back by itself with the next epoch, and stays in order", async () => {
  const server = await startServer({ flags: ["--session-life-ms", "1500"] });
  const scripted = await server.scriptedAgent({ cluster: "moves" });
  expect(await scripted.next("drain")).toMatchObject({ spreadMs: 0 });
  await scripted.goodbye();
  await until(async () => (await rowOf(server, scripted.agentId)).state === "ENDED", { withinMs: 60_000 });
  expect(await rowOf(server, scripted.agentId)).toMatchObject({ end_reason: "SESSION_MOVED" });

  const agent = await joinAgent(await makePlace(openApi(server.url, server.adminToken)));
  const id = await agent.id();
  await until(async () => (await rowOf(server, id)).epoch >= 3, { withinMs: 60_000 });
  expect(agent.process.output()).toMatch(/the server asked to connect again/);
  expect(agent.process.output()).not.toMatch(/no session; the agent dials again/);
});
