/**
 * Poll sessions where the requests of one reach any replica, and where replicas
 * and agents go away. A balancer that knows no sessions is played by turns.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { AgentsService, Agent_Connectivity } from "@bowline/contract/agents";
import { Command_State as State } from "@bowline/contract/commands";
import { openPoll, type ScriptedPoll, startReplicas, startServer, type TestServer, until } from "@bowline/testing";

/** Leases far longer than the test: whatever a replica leaves is not swept meanwhile. */
const flags = ["--lease-ms", "60000", "--lease-grace-ms", "60000"];

let a: TestServer;
let b: TestServer;

beforeAll(async () => {
  [a, b] = await startReplicas(2, { flags });
});

const rowOf = (server: TestServer, agentId: string) =>
  server.database.db.selectFrom("sessions").selectAll().where("agent_id", "=", agentId).executeTakeFirstOrThrow();
const shown = (server: TestServer, id: string) => server.client(AgentsService).getAgent({ id });
const about = ({ commandId, attempt }: { commandId?: string; attempt?: number }) => ({ commandId, attempt });

async function carryOut(poll: ScriptedPoll, command: Record<string, string>) {
  const { deploymentId, generation, commandId } = command;
  const path = `/v1/agent/deployments/${deploymentId}/generations/${generation}?command_id=${commandId}&attempt=1`;
  expect((await poll.ask("GET", path)).status).toBe(200);
  const receipts = { receipts: [{ ...about(command), disposition: "ACCEPTED" }] };
  expect((await poll.ask("POST", "/v1/agent/receipts", receipts)).status).toBe(200);
  const results = { results: [{ ...about(command), outcome: "SUCCEEDED" }] };
  return (await poll.ask("POST", "/v1/agent/results", results)).body["acks"];
}

test("requests that reach each replica by turns are one session with one epoch, and each command is carried out once", async () => {
  const agent = await a.scriptedAgent({ cluster: "turns" });
  const poll = await openPoll(agent, { urls: [a.url, b.url] });
  for (const name of ["one", "two", "three"]) {
    await (name === "two" ? b : a).operator.publish(name, { to: "turns" });
    const command = await poll.next("deployCommand");
    expect(command).toMatchObject({ attempt: 1 });
    expect(await carryOut(poll, command)).toEqual([{ ...about(command), disposition: "RECORDED" }]);
    expect((await a.operator.command(String(command["commandId"]))).state).toBe(State.SUCCEEDED);
    expect((await poll.ask("POST", "/v1/agent/heartbeats", { number: 1 })).status).toBe(200);
  }
  expect(await rowOf(a, agent.agentId)).toMatchObject({ epoch: 2, state: "SERVING", transport: "POLL" });
});

test("no replica that a session has left, and that hears of it late, ends it where it has come back", async () => {
  await a.operator.cluster("hops");
  const agents = await Promise.all(Array.from({ length: 8 }, () => a.scriptedAgent({ cluster: "hops" })));
  const polls = await Promise.all(agents.map((agent) => openPoll(agent, { urls: [a.url, b.url] })));
  const hops = async (poll: ScriptedPoll) => {
    for (let hop = 0; hop < 40; hop += 1) await poll.receive("0s"); // throws SESSION_EXPIRED where it was ended
  };
  await Promise.all(polls.map(hops));
  for (const { agentId } of agents) expect(await rowOf(a, agentId)).toMatchObject({ epoch: 2, state: "SERVING" });
});

test("a poll that a network delivers late, to another replica, gets 409 and does not move the session", async () => {
  const agent = await a.scriptedAgent({ cluster: "late" });
  const poll = await openPoll(agent);
  const other = await openPoll(agent, { urls: [b.url] });
  expect((await poll.ask("GET", "/v1/agent/commands?number=1")).reason).toBe("SESSION_SUPERSEDED");
  await other.receive("0s");
  const token = String(other.greeting["accessToken"]);
  expect((await poll.ask("GET", "/v1/agent/commands?number=9&wait=0s", undefined, token)).status).toBe(200); // moves to a
  expect((await rowOf(a, agent.agentId)).replica_id).toBe(a.replicaId);
  for (const number of [9, 2]) {
    const late = await other.ask("GET", `/v1/agent/commands?number=${number}&wait=0s`);
    expect(late).toMatchObject({ status: 409, reason: "POLL_OUTDATED" });
  }
  expect((await rowOf(a, agent.agentId)).replica_id).toBe(a.replicaId);
});

test("a replica is killed: the next poll goes on at another, with the same epoch, the same attempt and the cancel", async () => {
  const agent = await a.scriptedAgent({ cluster: "killed" });
  const urls = [a.url];
  const poll = await openPoll(agent, { urls });
  await a.operator.publish("taken", { to: "killed" });
  const taken = await poll.next("deployCommand");
  await poll.ask("POST", "/v1/agent/receipts", { receipts: [{ ...about(taken), disposition: "ACCEPTED" }] });
  await a.operator.publish("lost", { to: "killed" });
  await until(async () => {
    const { db } = a.database;
    const assigned = db.selectFrom("command_states").select("attempt").where("state", "=", "ASSIGNED");
    return (await assigned.where("agent_id", "=", agent.agentId).execute()).length > 0;
  });
  await a.kill();
  urls[0] = b.url;
  const token = b.adminToken;
  await poll.ask("POST", `/v1/operator/commands/${taken["commandId"]}:cancel`, {}, token);
  const lost = await poll.next("deployCommand");
  expect(lost).toMatchObject({ attempt: 1 });
  poll.at.cursor = "";
  expect(await poll.next("cancelCommand")).toEqual(about(taken));
  expect(await carryOut(poll, lost)).toEqual([{ ...about(lost), disposition: "RECORDED" }]);
  expect(await rowOf(b, agent.agentId)).toMatchObject({ epoch: 2, state: "SERVING", replica_id: b.replicaId });
});

test("a replica that goes away tells who polls, ends the session in the books, and the agent opens another", async () => {
  const back = a.again(); // killed by the test before
  const agent = await b.scriptedAgent({ cluster: "drains" });
  const poll = await openPoll(agent);
  const waiting = poll.next("drain");
  await until(async () => (await poll.ask("POST", "/v1/agent/heartbeats", { number: 1 })).status === 200);
  expect((await b.stop()).code).toBe(0);
  expect(await waiting).toMatchObject({ spreadMs: 0 });
  expect(await rowOf(a, agent.agentId)).toMatchObject({ state: "ENDED", end_reason: "REPLICA_DRAINING" });
  expect((await openPoll(agent, { urls: [(await back).url] })).greeting).toMatchObject({ epoch: 3 });
});

test("who neither polls nor sends heartbeats within the silence limit is ended; who polls is not", async () => {
  const server = await startServer({ flags: ["--silence-limit-ms", "6000", "--heartbeat-interval-ms", "500"] });
  const silent = await server.scriptedAgent({ cluster: "silent" });
  const polling = await server.scriptedAgent({ cluster: "polling" });
  await openPoll(silent);
  const poll = await openPoll(polling);
  await until(async () => {
    expect(await poll.receive("30s")).toEqual([]); // answered well before the limit
    return (await shown(server, silent.agentId)).offlineReason === "HEARTBEAT_MISSED";
  });
  expect((await shown(server, polling.agentId)).connectivity).toBe(Agent_Connectivity.ONLINE);
  expect(server.process.output()).not.toMatch(/"level":"?(error|50|fatal)/);
});
