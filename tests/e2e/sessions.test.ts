/** Agents' sessions against a real server: who may open one, what it is told, and how it ends. */
import { beforeAll, expect, test } from "@jest/globals";
import { ConnectError } from "@connectrpc/connect";
import { generateKey } from "@bowline/auth";
import { SyncDecision_Action } from "@bowline/contract/agent";
import { Agent_State, AgentsService } from "@bowline/contract/agents";
import { AuditService } from "@bowline/contract/audit";
import { Command_State } from "@bowline/contract/commands";
import { type Refusal, refusalOf } from "@bowline/session";
import { enrolScriptedAgent, type ScriptedAgent, startServer, type TestServer, until } from "@bowline/testing";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});

/** What the server refused with. */
async function refused(call: Promise<unknown>): Promise<Refusal> {
  const error = await call.then(
    () => new Error("it was not refused"),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof ConnectError)) throw error;
  return refusalOf(error);
}

/** Enrolled, not connected. */
async function enrolled(cluster: string): Promise<ScriptedAgent> {
  const { id } = await server.operator.cluster(cluster);
  return enrolScriptedAgent({ url: server.url, token: await server.operator.registrationToken(id) });
}

const sessionRow = (agentId: string) =>
  server.database.db.selectFrom("sessions").selectAll().where("agent_id", "=", agentId).executeTakeFirstOrThrow();

test("an agent that greets is told its session, epoch, window and times, and serves after its Sync", async () => {
  const agent = await enrolled("greets");
  const session = await agent.connect({ sync: false });
  expect(session.greeting).toMatchObject({
    epoch: 1,
    incarnation: 1,
    window: 16,
    protocol: 1,
    heartbeatIntervalMs: 15_000,
    silenceLimitMs: 45_000,
  });
  expect(session.greeting.accessToken.split(".")).toHaveLength(3);
  expect(await sessionRow(agent.agentId)).toMatchObject({ id: session.greeting.sessionId, epoch: 1, state: "SYNCING" });
  expect(await session.sync({ last: true })).toMatchObject({ last: true, decisions: [], results: [] });
  expect(await sessionRow(agent.agentId)).toMatchObject({ epoch: 1, state: "SERVING" });
});

test("nothing is pushed before the last page of Sync, and everything after it", async () => {
  const agent = await enrolled("pages");
  const session = await agent.connect({ sync: false });
  const publish = await server.operator.publish("pages", { to: "pages" });
  session.send({ case: "sync", value: { last: false } });
  await session.heartbeat();
  const { commandId } = publish.targets[0] ?? { commandId: "" };
  expect((await server.operator.command(commandId)).state).toBe(Command_State.READY);
  expect(session.received.map(({ message }) => message.case)).toEqual(["connectResponse", "heartbeatAck"]);
  await session.sync({ last: true });
  expect(await session.nextCommand({ of: commandId })).toMatchObject({ attempt: 1, productPublishId: publish.id });
});

test("each session of an agent has a greater epoch than the one before", async () => {
  const agent = await enrolled("epochs");
  for (const epoch of [1, 2, 3]) {
    const session = await agent.connect();
    expect(session.greeting.epoch).toBe(epoch);
    expect((await session.goodbye()).reason).toBe("CLOSED");
  }
});

test("an assertion that was used is refused with the floor, and one above it opens a session", async () => {
  const agent = await enrolled("replays");
  const counter = Date.now() + 10_000;
  await agent.connect({ counter });
  for (const old of [counter, counter - 1]) {
    const refusal = await refused(agent.connect({ counter: old }));
    expect(refusal).toMatchObject({ reason: "ASSERTION_REPLAYED", metadata: { floor: String(counter) } });
  }
  expect((await agent.connect({ counter: counter + 1 })).greeting.epoch).toBe(2);
});

test("a refused assertion leaves the session that is open alone", async () => {
  const agent = await enrolled("alone");
  const session = await agent.connect();
  const key = await generateKey("Ed25519");
  await refused(agent.connect({ key }));
  await session.heartbeat();
  expect(await sessionRow(agent.agentId)).toMatchObject({ epoch: 1, state: "SERVING" });
});

test("an assertion by another key, for another server, of another time or of no form is refused", async () => {
  const agent = await enrolled("asserts");
  const key = await generateKey("Ed25519");
  expect((await refused(agent.connect({ key }))).reason).toBe("ASSERTION_INVALID");
  expect((await refused(agent.connect({ audience: "another" }))).reason).toBe("ASSERTION_INVALID");
  expect((await refused(agent.connect({ now: Date.now() - 3_600_000 }))).reason).toBe("CLOCK_SKEW");
  expect((await refused(agent.connect({ now: Date.now() + 3_600_000 }))).reason).toBe("CLOCK_SKEW");
  expect((await refused(agent.connect({ authorization: "Bearer rubbish" }))).reason).toBe("ASSERTION_INVALID");
  expect((await refused(agent.connect({ authorization: "Basic rubbish" }))).reason).toBe("UNAUTHENTICATED");
  expect((await refused(agent.connect({ authorization: "" }))).reason).toBe("UNAUTHENTICATED");
  expect((await agent.connect()).greeting.epoch).toBe(1);
});

test("a protocol that the server does not speak is refused", async () => {
  const agent = await enrolled("protocols");
  const greeting = { protocolMin: 2, protocolMax: 7 };
  expect((await refused(agent.connect({ greeting }))).reason).toBe("PROTOCOL_UNSUPPORTED");
});

test("revoking an agent ends its session at once, and it may not come back", async () => {
  const agent = await enrolled("revokes");
  const session = await agent.connect();
  await server.client(AgentsService).revokeAgent({ id: agent.agentId });
  await session.ended;
  expect((await refused(agent.connect())).reason).toBe("AGENT_REVOKED");
  expect(await sessionRow(agent.agentId)).toMatchObject({ state: "ENDED", end_reason: "REVOKED" });
});

test("retiring an agent by force ends its session at once, and it may not come back", async () => {
  const agent = await enrolled("retires");
  const session = await agent.connect();
  const agents = server.client(AgentsService);
  await expect(agents.retireAgent({ id: agent.agentId })).rejects.toThrow(/connected/);
  await agents.retireAgent({ id: agent.agentId, force: true });
  await session.ended;
  expect((await refused(agent.connect())).reason).toBe("AGENT_RETIRED");
  expect(await sessionRow(agent.agentId)).toMatchObject({ state: "ENDED", end_reason: "RETIRED" });
});

test.each([
  ["RETIRED", "AGENT_RETIRED"],
  ["CONFLICT", "AGENT_CONFLICT"],
])("an agent that is %s is refused with %s", async (state, reason) => {
  const agent = await enrolled("decides");
  const { db } = server.database;
  await db.updateTable("agents").set({ state }).where("id", "=", agent.agentId).execute();
  expect((await refused(agent.connect())).reason).toBe(reason);
});

test("a process that comes back after another took its place puts the agent into CONFLICT, until it is released", async () => {
  const agent = await enrolled("fights");
  const as = (processId: string) => agent.connect({ greeting: { processId } });
  await as("a");
  await as("a"); // its own return is no fight
  const second = await as("b");
  const refusal = await refused(as("a"));
  expect(refusal).toMatchObject({ reason: "AGENT_CONFLICT", metadata: { conflict: "TWO_PROCESSES" } });
  await second.ended;
  expect((await refused(as("b"))).reason).toBe("AGENT_CONFLICT");
  expect(await sessionRow(agent.agentId)).toMatchObject({ state: "ENDED", end_reason: "CONFLICT" });
  const agents = server.client(AgentsService);
  expect(await agents.getAgent({ id: agent.agentId })).toMatchObject({
    state: Agent_State.CONFLICT,
    conflict: "TWO_PROCESSES",
    offlineReason: "CONFLICT",
  });
  for (const _ of [1, 2]) {
    expect(await agents.releaseAgent({ id: agent.agentId })).toMatchObject({
      state: Agent_State.ENROLLED,
      conflict: "",
    });
  }
  await as("b");
  await as("a");
  expect((await refused(as("b"))).reason).toBe("AGENT_CONFLICT");
  const { auditEvents } = await server.client(AuditService).listAuditEvents({ resourceId: agent.agentId });
  const actions = auditEvents.map(({ action }) => action);
  expect(actions).toEqual(["agent.conflict", "agent.release", "agent.conflict", "agent.enrol"]);
});

test("one after another, and one that comes back after five minutes, are no conflict", async () => {
  const agent = await enrolled("restarts");
  for (const processId of ["a", "b", "c", "d"]) await agent.connect({ greeting: { processId } });
  await server.database.db
    .updateTable("displaced_processes")
    .set({ displaced_at: new Date(Date.now() - 301_000) })
    .where("agent_id", "=", agent.agentId)
    .execute();
  expect((await agent.connect({ greeting: { processId: "c" } })).greeting.epoch).toBe(5);
});

test("an agent on another runtime than the enrolled one is in CONFLICT, until an operator accepts the runtime", async () => {
  const agent = await enrolled("moves");
  const agents = server.client(AgentsService);
  const elsewhere = () => agent.connect({ greeting: { runtimeIdentity: "another-machine" } });
  expect((await refused(elsewhere())).reason).toBe("AGENT_CONFLICT");
  expect((await refused(agent.connect())).reason).toBe("AGENT_CONFLICT"); // the enrolled one too
  await agents.releaseAgent({ id: agent.agentId });
  await agent.connect();
  const refusal = await refused(elsewhere());
  expect(refusal).toMatchObject({ reason: "AGENT_CONFLICT", metadata: { conflict: "OTHER_RUNTIME" } });
  expect(await agents.getAgent({ id: agent.agentId })).toMatchObject({ conflictRuntimeIdentity: "another-machine" });
  await agents.releaseAgent({ id: agent.agentId, acceptRuntimeIdentity: true });
  expect((await elsewhere()).greeting.epoch).toBe(2);
});

test.each([
  ["REVOKED", "AGENT_REVOKED"],
  ["RETIRED", "AGENT_RETIRED"],
  ["AWAITING_DECISION", "AWAITING_DECISION"],
])("an agent that is %s is not released", async (state, reason) => {
  const agent = await enrolled(`stays-${state.toLowerCase().replace("_", "-")}`);
  await server.database.db.updateTable("agents").set({ state }).where("id", "=", agent.agentId).execute();
  const release = server.client(AgentsService).releaseAgent({ id: agent.agentId });
  expect((await refused(release)).reason).toBe(reason);
});

test("a newer session supersedes the older one, which is told so and whose words count no more", async () => {
  const agent = await server.scriptedAgent({ cluster: "supersedes" });
  const older = agent.session();
  await server.operator.publish("supersedes", { to: "supersedes" });
  const command = await older.nextCommand();
  await older.receive(command);
  const newer = await agent.connect({
    sync: { journal: [{ commandId: command.commandId, attempt: command.attempt }], last: true },
  });
  expect(await older.next("superseded")).toMatchObject({ epoch: newer.greeting.epoch });
  expect((await older.ended).reason).toBe("CLOSED");
  await expect(older.report(command, { succeeded: true })).rejects.toThrow();
  await expect(newer.fetch([command], older.greeting.accessToken)).rejects.toThrow(/session/i);
  expect((await refused(newer.fetch([command], older.greeting.accessToken))).reason).toBe("SESSION_EXPIRED");
  expect(await newer.report(command, { succeeded: true })).toBe("RECORDED");
});

test("commands that the server does not know are answered HOLD, never to be abandoned", async () => {
  const agent = await enrolled("holds");
  const session = await agent.connect({ sync: false });
  const journal = [{ commandId: "command_00000000000000000000000000", attempt: 3 }];
  const { decisions } = await session.sync({ journal, last: true });
  expect(decisions).toEqual([expect.objectContaining({ ...journal[0], action: SyncDecision_Action.HOLD })]);
});

test("an access token is renewed inside the stream, and both work while they live", async () => {
  const agent = await server.scriptedAgent({ cluster: "renews" });
  await server.operator.publish("renews", { to: "renews" });
  const command = await agent.nextCommand();
  const renewed = await agent.newToken();
  for (const token of [agent.session().greeting.accessToken, renewed]) {
    expect(await agent.fetch([command], token)).toEqual([expect.objectContaining({ reason: "", generation: 1 })]);
  }
});

test("a goodbye is recorded as a clean end, a cut connection as a lost one", async () => {
  const agent = await server.scriptedAgent({ cluster: "ends" });
  await agent.goodbye();
  await until(async () => (await sessionRow(agent.agentId)).end_reason === "CLOSED_CLEANLY");
  await agent.connect();
  agent.drop();
  await until(async () => (await sessionRow(agent.agentId)).end_reason === "CONNECTION_LOST");
});

test("an agent that says nothing is closed after the silence limit, and shows as HEARTBEAT_MISSED", async () => {
  const impatient = await startServer({ flags: ["--heartbeat-interval-ms", "1500", "--silence-limit-ms", "5000"] });
  const agent = await impatient.scriptedAgent({ cluster: "silent" });
  expect(agent.session().greeting).toMatchObject({ heartbeatIntervalMs: 1500, silenceLimitMs: 5000 });
  await agent.session().ended;
  const reason = async () =>
    (await impatient.client(AgentsService).getAgent({ id: agent.agentId })).offlineReason.toString();
  expect(await until(async () => reason())).toMatch(/HEARTBEAT_MISSED/);
});

test("a server that is asked to stop sends Drain, ends the streams, and is gone within 5 s", async () => {
  const leaving = await startServer();
  const agent = await leaving.scriptedAgent({ cluster: "drains" });
  const askedAt = performance.now();
  const stopped = leaving.stop();
  expect(await agent.session().next("drain")).toMatchObject({ spreadMs: 0 });
  expect((await agent.session().ended).reason).toBe("CLOSED");
  expect(await stopped).toMatchObject({ code: 0 });
  expect(performance.now() - askedAt).toBeLessThan(5_000);
  const row = await leaving.database.db.selectFrom("sessions").selectAll().executeTakeFirstOrThrow();
  expect(row).toMatchObject({ state: "ENDED", end_reason: "REPLICA_DRAINING" });
});
