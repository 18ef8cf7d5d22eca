/**
 * Whoever has stolen something of an agent, and an agent that meddles with
 * others or floods: each is refused, counted and audited, by a stream and by
 * polling, and nothing of what it says counts.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { CommandReceipt_Disposition as Receipt } from "@bowline/contract/agent";
import { AgentsService } from "@bowline/contract/agents";
import { AuditService } from "@bowline/contract/audit";
import { Command_State as State } from "@bowline/contract/commands";
import { refusalOf } from "@bowline/session";
import { askRest, openPoll, type ScriptedAgent, startServer, type TestServer, until } from "@bowline/testing";
import { metric } from "./metrics.ts";

let server: TestServer;
/** Takes 100 messages of an agent in 20 s. */
let strict: TestServer;
let cases = 0;

beforeAll(async () => {
  [server, strict] = await Promise.all([startServer(), startServer({ flags: ["--agent-messages-per-second", "5"] })]);
});

/** An agent with work under way, and another one that means ill. */
async function pair(server: TestServer) {
  cases += 1;
  const victim = await server.scriptedAgent({ cluster: `victim-${cases}` });
  const thief = await server.scriptedAgent({ cluster: `thief-${cases}` });
  await server.operator.publish(`victim-${cases}`, { to: `victim-${cases}` });
  const command = await victim.nextCommand();
  await victim.receive(command);
  await server.operator.commandIn(command.commandId, State.RUNNING);
  return { victim, thief, command };
}

/** Outcomes of what was audited of an agent, the oldest first. */
async function audited(server: TestServer, agentId: string) {
  const { auditEvents } = await server.client(AuditService).listAuditEvents({ pageSize: 1000 });
  return auditEvents
    .filter((event) => event.action === "agent.misuse" && event.resourceId === agentId)
    .map((event) => ({ outcome: event.outcome, after: JSON.stringify(event.after ?? {}), by: event.principalId }))
    .toReversed();
}

/** It was counted, and told to operators. */
async function told(server: TestServer, agent: ScriptedAgent, kind: string, about = ""): Promise<void> {
  await until(async () => (await metric(server, `bowline_agent_misuse_total{kind="${kind}"}`)) > 0);
  const event = await until(async () =>
    (await audited(server, agent.agentId)).find(({ outcome, after }) => outcome === kind && after.includes(about)),
  );
  expect(event.by).toBe(agent.agentId);
}

async function reasonOf(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => "taken",
    (error: unknown) => refusalOf(error).reason,
  );
}

test.each(["stream", "poll"] as const)(
  "a stolen assertion opens nothing a second time, by %s, and the agent's own session goes on",
  async (way) => {
    const { victim } = await pair(server);
    const replays = () => metric(server, 'bowline_agent_misuse_total{kind="ASSERTION_REPLAYED"}');
    const before = await replays();
    const counter = Date.now() + 10_000;
    const stolen = await victim.assertion({ counter });
    await victim.connect({ authorization: `Bearer ${stolen}` });
    const reason =
      way === "stream"
        ? await reasonOf(victim.connect({ authorization: `Bearer ${stolen}` }))
        : (
            await askRest(server.url, "POST", "/v1/agent/sessions", stolen, {
              processId: "thief",
              protocolMin: 1,
              protocolMax: 1,
              runtimeIdentity: victim.runtimeIdentity,
            })
          ).reason;
    expect(reason).toBe("ASSERTION_REPLAYED");
    await told(server, victim, "ASSERTION_REPLAYED");
    expect(await replays()).toBe(before + 1);
    await victim.session().heartbeat();
    expect(await victim.newToken()).toMatch(/\./);
  },
);

test("an access token that was stolen is worth nothing after the agent is revoked or retired: no spec, no key, no session", async () => {
  for (const end of ["AGENT_REVOKED", "AGENT_RETIRED"] as const) {
    const { victim, command } = await pair(server);
    const { accessToken } = victim.session().greeting;
    const agents = server.client(AgentsService);
    if (end === "AGENT_REVOKED") await agents.revokeAgent({ id: victim.agentId });
    else await agents.retireAgent({ id: victim.agentId, force: true });
    await victim.session().ended;
    expect(await reasonOf(victim.fetch([command], accessToken))).toBe("SESSION_EXPIRED");
    await told(server, victim, end);
    const before = await metric(server, `bowline_agent_misuse_total{kind="${end}"}`);
    const body = { results: [{ commandId: command.commandId, attempt: 1, outcome: "SUCCEEDED" }] };
    for (const path of ["results", "sessions:renew", "heartbeats"])
      expect(
        (await askRest(server.url, "POST", `/v1/agent/${path}`, accessToken, path === "results" ? body : {})).reason,
      ).toBe(end);
    expect(await reasonOf(victim.connect())).toBe(end);
    expect(await metric(server, `bowline_agent_misuse_total{kind="${end}"}`)).toBe(before + 4);
    expect((await server.operator.command(command.commandId)).state).not.toBe(State.SUCCEEDED);
    // One event tells it; the others are only counted.
    expect((await audited(server, victim.agentId)).map(({ outcome }) => outcome)).toEqual([end]);
  }
  expect(await metric(server, "bowline_audit_suppressed_total")).toBeGreaterThanOrEqual(8);
});

test("on a stream, an agent gets no spec of another's command, and no word of it about one counts", async () => {
  const { victim, thief, command } = await pair(server);
  const [answer] = await thief.fetch([command]);
  expect(answer).toMatchObject({ reason: "NOT_IN_FLIGHT", deploymentId: "" });
  expect(answer?.spec).toHaveLength(0);
  await told(server, thief, "FOREIGN_COMMAND", command.commandId);
  const count = () => metric(server, 'bowline_agent_misuse_total{kind="FOREIGN_COMMAND"}');
  for (const lie of [
    async () => thief.receipt(command, Receipt.REJECTED, { reason: "LIE" }),
    async () => thief.progress(command, { phase: "LYING", percent: 99 }),
    async () => expect(thief.report(command, { failed: "LIE", worthRetry: false })).resolves.toBe("UNKNOWN"),
  ]) {
    const before = await count();
    await lie();
    await until(async () => (await count()) === before + 1);
  }
  victim.progress(command, { phase: "PULLING", percent: 40 });
  await until(async () => (await server.operator.command(command.commandId)).progressPercent === 40);
  expect(await server.operator.command(command.commandId)).toMatchObject({ state: State.RUNNING, reason: "" });
  expect(await victim.report(command, { succeeded: true })).toBe("RECORDED");
  expect(await audited(server, victim.agentId)).toEqual([]);
});

test("a journal and results of another agent in a Sync change nothing there, and are told", async () => {
  const { victim, thief, command } = await pair(server);
  const session = await thief.connect({ sync: false });
  const { commandId, attempt } = command;
  const reply = await session.sync({
    journal: [{ commandId, attempt }],
    results: [{ commandId, attempt, outcome: 2, reason: "LIE" }],
    last: true,
  });
  expect(JSON.stringify(reply)).toContain(commandId);
  await told(server, thief, "FOREIGN_COMMAND", commandId);
  expect((await server.operator.command(commandId)).state).toBe(State.RUNNING);
  expect(await victim.report(command, { succeeded: true })).toBe("RECORDED");
});

test("by polling, another agent's deployment does not exist, and no word about its command counts", async () => {
  const { victim, thief, command } = await pair(server);
  const { commandId, deploymentId, generation, attempt } = command;
  const poll = await openPoll(thief);
  const path = `/v1/agent/deployments/${deploymentId}/generations/${generation}?command_id=${commandId}&attempt=1`;
  expect(await poll.ask("GET", path)).toMatchObject({ status: 404, reason: "NOT_FOUND" });
  await told(server, thief, "FOREIGN_COMMAND", commandId);
  await told(server, thief, "FOREIGN_DEPLOYMENT", deploymentId);
  const count = () => metric(server, 'bowline_agent_misuse_total{kind="FOREIGN_COMMAND"}');
  for (const [what, body] of [
    ["receipts", { receipts: [{ commandId, attempt, disposition: "REJECTED", reason: "LIE" }] }],
    ["progress", { progress: [{ commandId, attempt, phase: "LYING", percent: 99 }] }],
    ["results", { results: [{ commandId, attempt, outcome: "FAILED", reason: "LIE" }] }],
  ] as const) {
    const before = await count();
    expect((await poll.ask("POST", `/v1/agent/${what}`, body)).status).toBe(200);
    await until(async () => (await count()) === before + 1);
  }
  expect(await server.operator.command(commandId)).toMatchObject({ state: State.RUNNING, reason: "" });
  expect(await victim.report(command, { succeeded: true })).toBe("RECORDED");
});

test("an agent that floods its stream loses the session, is told when to come again, and takes nothing from another", async () => {
  const { victim, thief, command } = await pair(strict);
  for (let number = 1; number <= 500; number += 1) thief.send({ case: "heartbeat", value: { number } });
  const end = await thief.session().ended;
  expect(end.reason).toBe("OVERLOADED");
  expect(end.message).toMatch(/at most 100 things in 20 s/);
  await told(strict, thief, "FLOODING");
  const { db } = strict.database;
  const ended = await until(async () => {
    const row = await db.selectFrom("sessions").selectAll().where("agent_id", "=", thief.agentId).executeTakeFirst();
    return row?.state === "ENDED" ? row : undefined;
  });
  expect(ended.end_reason).toBe("FLOODING");
  expect(await metric(strict, 'bowline_refused_total{limit="agent-messages"}')).toBeGreaterThan(0);
  await until(
    async () => (await metric(strict, 'bowline_sessions_ended_total{transport="stream",reason="FLOODING"}')) === 1,
  );
  expect(await reasonOf(thief.fetch([command], thief.session().greeting.accessToken))).toBe("OVERLOADED");
  expect(await victim.report(command, { succeeded: true })).toBe("RECORDED");
});

test("an agent that floods by polling is answered 429 with a time to wait, whatever it calls, and another is not", async () => {
  const { victim, thief, command } = await pair(strict);
  const poll = await openPoll(thief);
  const results = Array.from({ length: 60 }, (_, index) => ({ commandId: `command_${index}`, attempt: 1 }));
  const refused = await until(async () => {
    const answer = await poll.ask("POST", "/v1/agent/results", { results });
    return answer.status === 429 ? answer : undefined;
  });
  expect(refused).toMatchObject({ reason: "OVERLOADED" });
  for (const path of ["heartbeats", "sessions:renew"]) {
    const answer = await fetch(`${strict.url}/v1/agent/${path}`, {
      method: "POST",
      body: "{}",
      headers: {
        authorization: `Bearer ${poll.greeting.accessToken}`,
        "content-type": "application/json",
        connection: "close",
      },
    });
    expect(answer.status).toBe(429);
    expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
  }
  await told(strict, thief, "FLOODING");
  expect(await metric(strict, 'bowline_refused_total{limit="agent-messages"}')).toBeGreaterThanOrEqual(3);
  expect(await victim.report(command, { succeeded: true })).toBe("RECORDED");
});

test("more calls at a time than an agent has are refused and counted", async () => {
  const { thief } = await pair(server);
  const poll = await openPoll(thief);
  const { db } = server.database;
  const answers: (string | undefined)[] = [];
  const receipts = [{ commandId: "command_x", attempt: 1, disposition: "ACCEPTED" }];
  const asked = await db.transaction().execute(async (tx) => {
    await tx.selectFrom("sessions").select("id").where("agent_id", "=", thief.agentId).forUpdate().execute();
    const all = Array.from({ length: 10 }, async () => {
      answers.push((await poll.ask("POST", "/v1/agent/receipts", { receipts })).reason);
    });
    await until(() => answers.length === 2);
    return { all };
  });
  await Promise.all(asked.all);
  expect(answers.slice(0, 2)).toEqual(["OVERLOADED", "OVERLOADED"]);
  expect(await metric(server, 'bowline_refused_total{limit="agent-requests"}')).toBe(2); // of this server's only such test
});
