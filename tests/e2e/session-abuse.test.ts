/**
 * Agents that break the rules: each gets its documented end, and another agent
 * on the same server works on as if nothing were.
 */
import { connect } from "node:net";
import { afterEach, beforeAll, beforeEach, expect, test } from "@jest/globals";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  type AgentMessage,
  AgentMessageSchema,
  CommandReceipt_Disposition as Receipt,
  DeployResult_Outcome as Outcome,
} from "@bowline/contract/agent";
import { AgentsService } from "@bowline/contract/agents";
import { Command_State as State } from "@bowline/contract/commands";
import { openRawStream, type ScriptedAgent, startServer, type TestServer, until } from "@bowline/testing";

let server: TestServer;
let agent: ScriptedAgent;
let bystander: ScriptedAgent;
let cases = 0;

beforeAll(async () => {
  server = await startServer();
});

beforeEach(async () => {
  cases += 1;
  agent = await server.scriptedAgent({ cluster: `abuse-${cases}` });
  bystander = await server.scriptedAgent({ cluster: `bystander-${cases}` });
});

/** Whatever happened: the other agent still gets its work. */
afterEach(async () => {
  const publish = await server.operator.publish(`bystander-${cases}`, { to: `bystander-${cases}` });
  expect(await bystander.nextCommand()).toMatchObject({ attempt: 1 });
  await bystander.heartbeat();
  expect(publish.targets).toHaveLength(1);
  expect(server.process.output()).not.toMatch(/"level":"?(error|50|fatal)|uncaught/i);
});

const endReason = async (): Promise<string> => {
  const { db } = server.database;
  const row = await db
    .selectFrom("sessions")
    .selectAll()
    .where("agent_id", "=", agent.agentId)
    .executeTakeFirstOrThrow();
  return row.end_reason;
};

/** A message as its bytes. */
const bytesOf = (message: Parameters<ScriptedAgent["send"]>[0]): Uint8Array =>
  toBinary(AgentMessageSchema, create(AgentMessageSchema, { message }) as AgentMessage);

test("a message before the greeting ends the stream with PROTOCOL_VIOLATION", async () => {
  const raw = openRawStream(server.url, `Bearer ${await agent.assertion()}`);
  raw.envelope(bytesOf({ case: "heartbeat", value: { number: 1 } }));
  expect((await raw.ended).body).toMatch(/PROTOCOL_VIOLATION|connect_request comes first/);
});

test.each([
  ["a second greeting", { case: "connectRequest", value: {} }],
  ["a Sync after its last page", { case: "sync", value: { last: true } }],
] as const)("%s ends the session with PROTOCOL_VIOLATION", async (_, message) => {
  agent.send(message);
  expect((await agent.session().ended).reason).toBe("PROTOCOL_VIOLATION");
  await until(async () => (await endReason()) === "PROTOCOL_VIOLATION");
  expect((await agent.connect()).greeting.epoch).toBe(2);
});

test("a result before the last page of Sync ends the session with PROTOCOL_VIOLATION", async () => {
  const session = await agent.connect({ sync: false });
  session.send({ case: "deployResult", value: { commandId: "command_x", attempt: 1, outcome: Outcome.SUCCEEDED } });
  expect((await session.ended).reason).toBe("PROTOCOL_VIOLATION");
});

test("a message above 64 KiB ends the session with a clear reason; one just below it is taken", async () => {
  agent.send({ case: "stateReport", value: { deployments: [{ deploymentId: "x".repeat(60_000) }] } });
  await agent.heartbeat();
  agent.send({ case: "stateReport", value: { deployments: [{ deploymentId: "x".repeat(70_000) }] } });
  const end = await agent.session().ended;
  expect(end.reason).toBe("BODY_TOO_LARGE");
  expect(end.message).toMatch(/65536/);
  expect((await agent.connect()).greeting.epoch).toBe(2);
});

test("bytes that are no message end the stream, with a clear reason where one can be told", async () => {
  const raw = openRawStream(server.url, `Bearer ${await agent.assertion()}`);
  raw.envelope(Buffer.from("rubbish that is no protobuf"));
  expect((await raw.ended).body).toMatch(/"code":"invalid_argument"/);

  const lying = openRawStream(server.url, `Bearer ${await agent.assertion()}`);
  lying.envelope(Buffer.from("x"), 4_000_000_000);
  expect((await lying.ended).body).toMatch(/"code":"resource_exhausted"/);

  const unframed = openRawStream(server.url, `Bearer ${await agent.assertion()}`);
  unframed.write(Buffer.from([0, 0]));
  unframed.finish();
  expect((await unframed.ended).body).toMatch(/"error"/);

  const cut = openRawStream(server.url, `Bearer ${await agent.assertion()}`);
  cut.envelope(Buffer.from("x"), 100);
  cut.cut();
  await cut.ended;
});

test("a stream of another content type is refused", async () => {
  const raw = openRawStream(server.url, `Bearer ${await agent.assertion()}`, "application/octet-stream");
  expect((await raw.ended).status).toBe(415);
});

test("a bidi call over HTTP/1.1 is refused clearly", async () => {
  const body = "\0\0\0\0\0";
  const { hostname, port } = new URL(server.url);
  const socket = connect(Number(port), hostname);
  socket.write(
    [
      "POST /bowline.agent.v1.AgentService/Connect HTTP/1.1",
      `Host: ${hostname}:${port}`,
      `Authorization: Bearer ${await agent.assertion()}`,
      "Content-Type: application/connect+proto",
      `Content-Length: ${body.length}`,
      "Connection: close",
      "",
      body,
    ].join("\r\n"),
  );
  let answer = "";
  for await (const chunk of socket.setEncoding("utf8")) answer += String(chunk);
  expect(answer).toMatch(/^HTTP\/1\.1 505 /);
});

test("a flood of heartbeats is answered without a queue of answers, and the session goes on", async () => {
  for (let number = 1; number <= 2_000; number += 1) agent.send({ case: "heartbeat", value: { number } });
  await agent.session().next("heartbeatAck", (ack) => ack.number === 2_000);
  expect(await agent.newToken()).toMatch(/\./);
});

test("a flood of results that nobody asked for is answered, each UNKNOWN", async () => {
  for (let attempt = 1; attempt <= 500; attempt += 1) {
    agent.send({ case: "deployResult", value: { commandId: "command_x", attempt, outcome: Outcome.SUCCEEDED } });
  }
  await agent.session().next("resultAck", (ack) => ack.attempt === 500);
  const acks = agent.session().received.filter(({ message }) => message.case === "resultAck");
  expect(acks).toHaveLength(500);
});

test("an agent that says much and reads nothing loses its session as NOT_READING, with a bounded queue of answers", async () => {
  const raw = openRawStream(server.url, `Bearer ${await agent.assertion()}`);
  raw.stopReading();
  const { runtimeIdentity } = agent;
  const greeting = { processId: "deaf", protocolMin: 1, protocolMax: 1, runtimeIdentity };
  raw.envelope(bytesOf({ case: "connectRequest", value: greeting }));
  raw.envelope(bytesOf({ case: "sync", value: { last: true } }));
  // Far more answers than the windows of HTTP/2 and the server's queue have room for.
  for (let attempt = 1; attempt <= 6_000; attempt += 1) {
    const value = { commandId: `command_${"x".repeat(40)}`, attempt, outcome: Outcome.SUCCEEDED };
    raw.envelope(bytesOf({ case: "deployResult", value }));
  }
  await until(async () => (await endReason()) === "NOT_READING");
});

test("numbers and characters that a database cannot hold cost nothing, to nobody", async () => {
  const most = 4_294_967_295;
  const publish = await server.operator.publish(`abuse-${cases}`, { to: `abuse-${cases}` });
  expect(publish.targets).toHaveLength(1);
  const command = await agent.nextCommand();
  await agent.receive(command);
  await agent.heartbeat({
    running: most,
    limit: most,
    loadMillis: most,
    memoryMillis: most,
    placesFree: most,
    diskFreeBytes: 2n ** 64n - 1n,
  });
  agent.progress({ ...command, attempt: most }, { phase: "A\0B", percent: most, message: "\0" });
  agent.progress(command, { phase: "A\0B", percent: most, message: "nul \0 here" });
  agent.state({
    observation: most,
    deployments: [
      {
        deploymentId: command.deploymentId,
        generation: most,
        instances: [{ workload: "w\0", index: most, phase: "RUNNING", restarts: most, reason: "\0" }],
      },
    ],
  });
  agent.receipt({ commandId: "command\0", attempt: most }, Receipt.REJECTED, { reason: "\0", message: "\0" });
  await until(async () => (await server.operator.command(command.commandId)).progressPercent === 100);
  expect(await agent.report(command, { failed: "BAD\0", message: "nul \0 here", worthRetry: false })).toBe("RECORDED");
  expect(await server.operator.command(command.commandId)).toMatchObject({
    state: State.FAILED,
    message: "nul \u{fffd} here",
  });
  expect(agent.session().received.filter(({ message }) => message.case === "messageRefused")).toEqual([]);
});

test("a greeting with what cannot be held is refused, or held as it can be", async () => {
  const session = await agent.connect({
    greeting: { processId: "\0", agentVersion: "\0", labels: { zone: "a\0" }, journalCounter: 4_294_967_295 },
  });
  expect(session.greeting.epoch).toBe(2);
  const shown = await server.client(AgentsService).getAgent({ id: agent.agentId });
  expect(shown.version).toBe("\u{fffd}");
});

test("Sync pages without end are bounded", async () => {
  const session = await agent.connect({ sync: false });
  const journal = Array.from({ length: 1_500 }, (_, index) => ({ commandId: `command_${index}`, attempt: 1 }));
  for (let page = 0; page < 70; page += 1) session.send({ case: "sync", value: { journal } });
  expect((await session.ended).reason).toBe("PROTOCOL_VIOLATION");
  await until(async () => (await endReason()) === "PROTOCOL_VIOLATION");
});
