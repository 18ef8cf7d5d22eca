/**
 * Sessions without a stream, as any HTTP/1.1 client can hold one: PollingService
 * over REST, on a real server. What a real agent does with it behind real proxies
 * is in tests/faults/broken-streams.test.ts.
 */
import { beforeAll, beforeEach, expect, test } from "@jest/globals";
import { Agent_State, AgentsService, Agent_Connectivity, Agent_Transport } from "@bowline/contract/agents";
import { Command_State as State } from "@bowline/contract/commands";
import { ProductPublishService } from "@bowline/contract/products";
import { newId } from "@bowline/kernel";
import {
  askRest,
  openPoll,
  type ScriptedAgent,
  type ScriptedPoll,
  startServer,
  type TestServer,
  until,
} from "@bowline/testing";

let server: TestServer;
let agent: ScriptedAgent;
let cluster: string;
let cases = 0;

beforeAll(async () => {
  server = await startServer({ flags: ["--heartbeat-interval-ms", "1000", "--silence-limit-ms", "20000"] });
});

beforeEach(async () => {
  cases += 1;
  cluster = `polls-${cases}`;
  agent = await server.scriptedAgent({ cluster });
});

const shown = () => server.client(AgentsService).getAgent({ id: agent.agentId });
const about = ({ commandId, attempt }: { commandId?: string; attempt?: number }) => ({ commandId, attempt });

/** Publishes, and polls the command that comes of it. */
async function pushed(poll: ScriptedPoll, name = cluster) {
  const publish = await server.operator.publish(name, { to: cluster });
  const command = await poll.next("deployCommand");
  return { publish, command };
}

test("a publish is carried out by polling, step by step", async () => {
  const poll = await openPoll(agent);
  expect(poll.greeting).toMatchObject({ epoch: 2, heartbeatIntervalMs: 1000, silenceLimitMs: 20000, protocol: 1 });
  const online = await shown();
  expect(online).toMatchObject({ connectivity: Agent_Connectivity.ONLINE, transport: Agent_Transport.POLL });

  const { command } = await pushed(poll);
  const { deploymentId, generation, commandId } = command;
  const path = `/v1/agent/deployments/${deploymentId}/generations/${generation}?command_id=${commandId}&attempt=1`;
  const fetched = await poll.ask("GET", path);
  expect(fetched).toMatchObject({ status: 200, body: { digest: command["digest"], reason: "" } });
  expect(fetched.body["spec"]).not.toBe("");

  const accepted = { receipts: [{ ...about(command), disposition: "ACCEPTED" }] };
  expect((await poll.ask("POST", "/v1/agent/receipts", accepted)).status).toBe(200);
  expect((await server.operator.command(commandId)).state).toBe(State.RUNNING); // P2: committed when it was answered
  const progress = { progress: [{ ...about(command), phase: "STARTING", percent: 40 }] };
  expect((await poll.ask("POST", "/v1/agent/progress", progress)).status).toBe(200);
  await until(async () => (await server.operator.command(commandId)).progressPercent === 40);
  const state = { observation: 1, deployments: [{ deploymentId, generation, instances: [] }] };
  expect((await poll.ask("POST", "/v1/agent/state", state)).status).toBe(200);
  const heard = await poll.ask("POST", "/v1/agent/heartbeats", { number: 7, capacity: { placesFree: 16 } });
  expect(heard).toMatchObject({ status: 200, body: { number: 7 } });

  const results = { results: [{ ...about(command), outcome: "SUCCEEDED" }] };
  const told = await poll.ask("POST", "/v1/agent/results", results);
  expect(told.body["acks"]).toEqual([{ ...about(command), disposition: "RECORDED" }]);
  expect((await server.operator.command(commandId)).state).toBe(State.SUCCEEDED);
  const again = await poll.ask("POST", "/v1/agent/results", results);
  expect(again.body["acks"]).toEqual([{ ...about(command), disposition: "ALREADY_RECORDED" }]);

  const renewed = await poll.ask("POST", "/v1/agent/sessions:renew", {});
  const token = String(renewed.body["accessToken"]);
  expect((await poll.ask("POST", "/v1/agent/heartbeats", { number: 8 }, token)).status).toBe(200);
  expect((await poll.ask("POST", "/v1/agent/sessions:close", { reason: "done" })).status).toBe(200);
  expect(await shown()).toMatchObject({
    connectivity: Agent_Connectivity.OFFLINE,
    offlineReason: "CLOSED_CLEANLY",
    transport: Agent_Transport.TRANSPORT_UNSPECIFIED,
  });
  expect((await poll.ask("POST", "/v1/agent/heartbeats", { number: 9 })).reason).toBe("SESSION_EXPIRED");
});

test("a poll with a lower or equal number gets 409, and one that waits gives way to a newer", async () => {
  const poll = await openPoll(agent);
  const numbered = (number: number, wait: string) =>
    poll.ask("GET", `/v1/agent/commands?number=${number}&wait=${wait}`);
  expect((await numbered(5, "0s")).status).toBe(200);
  for (const number of [5, 4, 1]) {
    const refused = await numbered(number, "0s");
    expect(refused).toMatchObject({ status: 409, reason: "POLL_OUTDATED" });
  }
  const waiting = numbered(6, "30s");
  await until(async () => (await numbered(7, "0s")).status === 200);
  expect(await waiting).toMatchObject({ status: 409, reason: "POLL_OUTDATED" });
});

test("an answer that got lost is answered again, until a cursor says that it came", async () => {
  const poll = await openPoll(agent);
  const { command } = await pushed(poll);
  poll.at.cursor = ""; // as one who never got the answer
  const again = await poll.next("deployCommand");
  expect(again).toEqual(command);
  expect(await poll.receive("0s")).toEqual([]);
});

test("a Sync whose answer got lost is told again and answered alike; after the first poll it is refused", async () => {
  const poll = await openPoll(agent, { sync: false });
  const early = await poll.ask("POST", "/v1/agent/results", {
    results: [{ commandId: "c", attempt: 1, outcome: "FAILED" }],
  });
  expect(early).toMatchObject({ status: 400, reason: "PROTOCOL_VIOLATION" });
  const journal = [{ commandId: "command_x", attempt: 1, deploymentId: "d", generation: 1, phase: "RUNNING" }];
  const tell = () => poll.ask("POST", "/v1/agent/sync", { pages: [{ journal }, { last: true }] });
  const first = await tell();
  expect(first.body).toMatchObject({ decisions: [{ commandId: "command_x", attempt: 1, action: "HOLD" }], last: true });
  expect((await tell()).body).toEqual(first.body);
  await poll.receive("0s");
  expect(await tell()).toMatchObject({ status: 400, reason: "PROTOCOL_VIOLATION" });
  const unfinished = await poll.ask("POST", "/v1/agent/sync", { pages: [{ last: true }, {}] });
  expect(unfinished).toMatchObject({ status: 400, reason: "INVALID_ARGUMENT" });
});

test("stream and poll supersede each other, and a result of the older one is answered RESEND", async () => {
  const stream = agent.session();
  const poll = await openPoll(agent, { processId: "same" });
  await stream.next("superseded");
  const { command } = await pushed(poll);
  await poll.ask("POST", "/v1/agent/receipts", { receipts: [{ ...about(command), disposition: "ACCEPTED" }] });
  const waiting = poll.receive("20s").catch((error: unknown) => [String(error)]);
  await poll.ask("POST", "/v1/agent/heartbeats", { number: 1 }); // answered when the poll before it has come
  const journal = [
    { commandId: command["commandId"], attempt: 1, deploymentId: command["deploymentId"], generation: 1 },
  ];
  const next = await agent.connect({ greeting: { processId: "same" }, sync: { journal, last: true } });
  expect(next.greeting.epoch).toBe(3);
  expect(await waiting).toEqual([{ superseded: { epoch: 3 } }]);
  expect(await poll.ask("GET", "/v1/agent/commands?number=1000")).toMatchObject({
    status: 409,
    reason: "SESSION_SUPERSEDED",
  });
  expect((await poll.ask("POST", "/v1/agent/heartbeats", { number: 1 })).reason).toBe("SESSION_SUPERSEDED");
  const late = { results: [{ ...about(command), outcome: "SUCCEEDED" }] };
  expect((await poll.ask("POST", "/v1/agent/results", late)).body["acks"]).toMatchObject([{ disposition: "RESEND" }]);
  expect((await shown()).transport).toBe(Agent_Transport.STREAM);
  expect(await next.report(command as { commandId: string; attempt: number }, { succeeded: true })).toBe("RECORDED");
  expect((await poll.ask("POST", "/v1/agent/results", late)).body["acks"]).not.toMatchObject([
    { disposition: "RECORDED" },
  ]);
});

test("a cancel reaches who polls", async () => {
  const poll = await openPoll(agent);
  const { command } = await pushed(poll);
  await poll.ask("POST", "/v1/agent/receipts", { receipts: [{ ...about(command), disposition: "ACCEPTED" }] });
  const cancel = askRest(
    server.url,
    "POST",
    `/v1/operator/commands/${command["commandId"]}:cancel`,
    server.adminToken,
    {},
  );
  expect(await poll.next("cancelCommand")).toEqual(about(command));
  expect((await cancel).status).toBeLessThan(300);
  const results = { results: [{ ...about(command), outcome: "CANCELLED" }] };
  await poll.ask("POST", "/v1/agent/results", results);
  expect((await server.operator.command(String(command["commandId"]))).state).toBe(State.CANCELLED);
});

test("an access token is worth nothing once the agent is revoked", async () => {
  const poll = await openPoll(agent);
  const { command } = await pushed(poll);
  const waiting = poll.receive("20s").catch((error: unknown) => String(error));
  await server.client(AgentsService).revokeAgent({ id: agent.agentId });
  await waiting;
  const { deploymentId, generation, commandId } = command;
  const asks = [
    poll.ask("GET", "/v1/agent/commands?number=999"),
    poll.ask("POST", "/v1/agent/heartbeats", { number: 1 }),
    poll.ask("POST", "/v1/agent/sessions:renew", {}),
    poll.ask("POST", "/v1/agent/results", { results: [{ ...about(command), outcome: "SUCCEEDED" }] }),
    poll.ask(
      "GET",
      `/v1/agent/deployments/${deploymentId}/generations/${generation}?command_id=${commandId}&attempt=1`,
    ),
  ];
  for (const asked of asks) expect(await asked).toMatchObject({ status: 403, reason: "AGENT_REVOKED" });
  expect((await askRest(server.url, "POST", "/v1/agent/sessions", await agent.assertion(), {})).reason).toBe(
    "AGENT_REVOKED",
  );
});

test("an assertion opens once, and neither it nor another's token is an access token", async () => {
  const assertion = await agent.assertion();
  const greeting = { processId: "p", protocolMin: 1, protocolMax: 1, runtimeIdentity: agent.runtimeIdentity };
  const open = () => askRest(server.url, "POST", "/v1/agent/sessions", assertion, greeting);
  expect((await open()).status).toBe(201);
  expect(await open()).toMatchObject({ status: 401, reason: "ASSERTION_REPLAYED" });
  for (const token of [assertion, server.adminToken, "rubbish", ""]) {
    const refused = await askRest(server.url, "GET", "/v1/agent/commands?number=1", token);
    expect(refused).toMatchObject({ status: 401, reason: "UNAUTHENTICATED" });
  }
  const unsupported = { ...greeting, protocolMin: 9, protocolMax: 9 };
  const refused = await askRest(server.url, "POST", "/v1/agent/sessions", await agent.assertion(), unsupported);
  expect(refused.reason).toBe("PROTOCOL_UNSUPPORTED");
});

test("another agent's deployment and command do not exist for it, and lies about them change nothing", async () => {
  const other = await server.scriptedAgent({ cluster: `${cluster}-other` });
  await server.operator.publish(`${cluster}-other`, { to: `${cluster}-other` });
  const theirs = await other.nextCommand();
  const poll = await openPoll(agent);
  const { deploymentId, generation, commandId } = theirs;
  const path = `/v1/agent/deployments/${deploymentId}/generations/${generation}?command_id=${commandId}&attempt=1`;
  expect(await poll.ask("GET", path)).toMatchObject({ status: 404, reason: "NOT_FOUND" });
  const { command } = await pushed(poll);
  const mixed = `/v1/agent/deployments/${deploymentId}/generations/${generation}?command_id=${command["commandId"]}&attempt=1`;
  expect(await poll.ask("GET", mixed)).toMatchObject({ status: 404, reason: "NOT_FOUND" });
  const lie = await poll.ask("POST", "/v1/agent/results", { results: [{ commandId, attempt: 1, outcome: "FAILED" }] });
  expect(lie.body["acks"]).toMatchObject([{ disposition: "UNKNOWN" }]);
  await poll.ask("POST", "/v1/agent/receipts", { receipts: [{ commandId, attempt: 1, disposition: "REJECTED" }] });
  expect((await server.operator.command(commandId)).state).toBe(State.ASSIGNED);
});

test.each([
  ["POST", "/v1/agent/sessions"],
  ["POST", "/v1/agent/sessions:renew"],
  ["POST", "/v1/agent/sync"],
  ["POST", "/v1/agent/heartbeats"],
  ["POST", "/v1/agent/receipts"],
  ["POST", "/v1/agent/progress"],
  ["POST", "/v1/agent/state"],
  ["POST", "/v1/agent/results"],
  ["GET", "/v1/agent/commands"],
  ["GET", "/v1/agent/deployments/x/generations/1"],
])("rubbish on %s %s is refused with a stable reason, and the session goes on", async (method, path) => {
  const poll = await openPoll(agent);
  const opening = path === "/v1/agent/sessions";
  const token = opening ? await agent.assertion() : undefined;
  const ask = (body: unknown, query = "") => poll.ask(method, `${path}${query}`, body, token);
  const refusals = new Set(["INVALID_ARGUMENT", "MALFORMED_BODY", "BODY_TOO_LARGE", "NOT_FOUND"]);
  if (method === "GET") {
    for (const query of [
      "?number=-1",
      "?number=x",
      "?number=99999999999",
      "?nonsense=1",
      "?wait=forever",
      "?command_id=%00",
    ]) {
      const refused = await ask(undefined, query);
      expect(refusals).toContain(refused.reason);
      expect(refused.status).toBeLessThan(500);
    }
  } else {
    const nested = `${"[".repeat(5_000)}${"]".repeat(5_000)}`;
    for (const body of [
      "{",
      "[]",
      '"text"',
      "\0\u0001",
      nested,
      '{"nonsense": 1}',
      `{"reason": "${"x".repeat(2 * 1024 * 1024)}"}`,
    ]) {
      const refused = await ask(body);
      expect(refusals).toContain(refused.reason);
      expect(refused.status).toBeLessThan(500);
    }
  }
  expect((await poll.ask("POST", "/v1/agent/heartbeats", { number: 1 })).status).toBe(200);
  expect(await poll.receive("0s")).toEqual([]);
});

test("empty lists, too many and too large messages are refused, each with its reason", async () => {
  const poll = await openPoll(agent);
  const many = Array.from({ length: 65 }, () => ({ commandId: "c", attempt: 1 }));
  for (const [path, field] of [
    ["receipts", "receipts"],
    ["progress", "progress"],
    ["results", "results"],
    ["sync", "pages"],
  ] as const) {
    expect((await poll.ask("POST", `/v1/agent/${path}`, { [field]: [] })).reason).toBe("INVALID_ARGUMENT");
    if (path !== "sync")
      expect((await poll.ask("POST", `/v1/agent/${path}`, { [field]: many })).reason).toBe("INVALID_ARGUMENT");
  }
  const large = { observation: 1, deployments: [{ deploymentId: "x".repeat(70_000) }] };
  expect(await poll.ask("POST", "/v1/agent/state", large)).toMatchObject({ status: 413, reason: "BODY_TOO_LARGE" });
  const odd = { commandId: "command_x", attempt: 4_294_967_295, outcome: "FAILED", message: "\u001b[31m" };
  expect((await poll.ask("POST", "/v1/agent/results", { results: [odd] })).body["acks"]).toMatchObject([
    { disposition: "UNKNOWN" },
  ]);
  const nul = { ...odd, message: "\0" };
  expect(await poll.ask("POST", "/v1/agent/results", { results: [nul] })).toMatchObject({ reason: "MALFORMED_BODY" });
});

test("after NOT_NOW nothing is claimed until a heartbeat tells places free", async () => {
  const poll = await openPoll(agent);
  const { command } = await pushed(poll);
  await poll.ask("POST", "/v1/agent/receipts", { receipts: [{ ...about(command), disposition: "NOT_NOW" }] });
  const held = () =>
    poll.ask(
      "GET",
      `/v1/agent/commands?number=${poll.at.number++}&cursor=${poll.at.cursor}&wait=1s&removals_only=true`,
    );
  expect((await held()).body["messages"]).toEqual([]);
  expect((await server.operator.command(String(command["commandId"]))).state).toBe(State.READY);
  await poll.ask("POST", "/v1/agent/heartbeats", { number: 1, capacity: { placesFree: 3 } });
  expect(await poll.next("deployCommand")).toMatchObject({ commandId: command["commandId"], attempt: 2 });
});

test("an agent that polls awaits a decision within its session, as one with a stream does", async () => {
  const unknown = { deploymentId: newId("deployment"), generation: 3, digest: "b".repeat(64) };
  const poll = await openPoll(agent, { sync: false });
  const synced = await poll.ask("POST", "/v1/agent/sync", { pages: [{ deployments: [unknown], last: true }] });
  expect(synced).toMatchObject({ status: 200, body: { awaitingDecision: true } });
  expect(await shown()).toMatchObject({
    state: Agent_State.AWAITING_DECISION,
    disputes: [{ deploymentId: unknown.deploymentId, why: "UNKNOWN_DEPLOYMENT" }],
  });
  expect((await poll.ask("POST", "/v1/agent/heartbeats", { number: 1 })).status).toBe(200);
  expect(await poll.receive("0s")).toEqual([]);
  const later = await openPoll(agent, { sync: { deployments: [unknown], last: true } });
  expect(await later.receive("0s")).toEqual([]);
  expect(await shown()).toMatchObject({ connectivity: Agent_Connectivity.ONLINE });
});

test("a removal that had no place comes again once a poll asks for everything, wherever the heartbeat went", async () => {
  const poll = await openPoll(agent);
  const publish = await server.operator.publish(cluster, { to: cluster });
  const both = new Map<unknown, ReturnType<typeof about>>();
  while (both.size < 2) {
    for (const { deployCommand } of await poll.receive()) {
      if (deployCommand !== undefined) both.set(deployCommand.commandId, about(deployCommand));
    }
  }
  const results = { results: [...both.values()].map((one) => ({ ...one, outcome: "SUCCEEDED" })) };
  await poll.ask("POST", "/v1/agent/results", results);
  await server.client(ProductPublishService).unpublishProductPublish({ id: publish.id });
  const removal = await poll.next("deployCommand");
  expect(removal).toMatchObject({ reduces: true, attempt: 1 });
  await poll.ask("POST", "/v1/agent/receipts", { receipts: [{ ...about(removal), disposition: "NOT_NOW" }] });
  expect(await poll.next("deployCommand")).toMatchObject({ commandId: removal["commandId"], attempt: 2 });
});

test("more requests at a time than an agent needs are OVERLOADED, and none of them waits for the database", async () => {
  const poll = await openPoll(agent);
  const receipt = { receipts: [{ commandId: "command_x", attempt: 1, disposition: "ACCEPTED" }] };
  const ask = () => poll.ask("POST", "/v1/agent/receipts", receipt);
  const { db } = server.database;
  const answers: { status: number; reason: string | undefined }[] = [];
  const all = await db.transaction().execute(async (tx) => {
    await tx.selectFrom("sessions").select("id").where("agent_id", "=", agent.agentId).forUpdate().execute();
    const asked = Array.from({ length: 12 }, async () => void answers.push(await ask()));
    await until(() => answers.length === 4); // the other eight wait for the row
    return { asked };
  });
  // The first four: the row is free by now, and others may have their answer too.
  for (const answer of answers.slice(0, 4)) expect(answer).toMatchObject({ status: 429, reason: "OVERLOADED" });
  await Promise.all(all.asked);
  expect(answers.filter(({ status }) => status === 200)).toHaveLength(8);
  expect((await ask()).status).toBe(200);
});
