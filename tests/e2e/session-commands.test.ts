/** Commands over a real stream: pushes, receipts, results, Sync; and what counts no more. */
import { beforeAll, expect, test } from "@jest/globals";
import { CommandReceipt_Disposition as Receipt, SyncDecision_Action as Action } from "@bowline/contract/agent";
import { type Command, Command_State as State, CommandService } from "@bowline/contract/commands";
import { ProductPublish_State as PublishState, ProductPublishService } from "@bowline/contract/products";
import { refusalOf } from "@bowline/session";
import { type ScriptedAgent, scriptedResult, startServer, type TestServer, until } from "@bowline/testing";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
  await server.operator.cluster("many");
});

/** An agent whose data plane has been set up, so that each publish is one command more. */
async function readyAgent(cluster: string): Promise<ScriptedAgent> {
  const agent = await server.scriptedAgent({ cluster });
  await server.operator.publish(`${cluster}-first`, { to: cluster });
  for (let count = 0; count < 2; count += 1) {
    const command = await agent.nextCommand();
    await agent.receive(command);
    await agent.report(command, { succeeded: true });
  }
  return agent;
}

/** Publishes a product of that name and takes its command as it is pushed. */
async function pushed(agent: ScriptedAgent, product: string) {
  const publish = await server.operator.publish(product, { to: agent.cluster });
  return agent.nextCommand({ of: publish.targets[0]?.commandId ?? "" });
}

const stateOf = async (id: string): Promise<Command["state"]> => (await server.operator.command(id)).state;

test("a pushed command has ids only; its spec is fetched, received, converged and recorded once", async () => {
  const agent = await readyAgent("push");
  const command = await pushed(agent, "push-one");
  expect(command).toMatchObject({ attempt: 1, generation: 1, runTimeoutMs: 300_000, reduces: false });
  expect(await stateOf(command.commandId)).toBe(State.ASSIGNED);
  const spec = await agent.receive(command);
  expect(spec).toMatchObject({
    id: command.deploymentId,
    generation: 1,
    routes: { productPublishId: command.productPublishId },
  });
  await server.operator.commandIn(command.commandId, State.RUNNING);
  agent.progress(command, { phase: "PROBING", percent: 50, message: "half way" });
  await until(async () => (await server.operator.command(command.commandId)).progressPhase === "PROBING");
  expect(await agent.report(command, { succeeded: true })).toBe("RECORDED");
  expect(await stateOf(command.commandId)).toBe(State.SUCCEEDED);
  expect(await agent.report(command, { succeeded: true })).toBe("ALREADY_RECORDED");
  expect(await agent.report(command, { failed: "LATE" })).toBe("ALREADY_RECORDED");
  expect(await stateOf(command.commandId)).toBe(State.SUCCEEDED);
});

test("a result of an older attempt changes nothing and is answered OBSOLETE", async () => {
  const agent = await readyAgent("attempts");
  const first = await pushed(agent, "attempts-one");
  await agent.receive(first);
  expect(await agent.report(first, { failed: "BACKEND_UNREACHABLE" })).toBe("RECORDED");
  const second = await agent.nextCommand({ of: first.commandId });
  expect(second.attempt).toBe(2);
  expect(await agent.report(first, { succeeded: true })).toBe("OBSOLETE");
  expect(await server.operator.command(first.commandId)).toMatchObject({
    state: State.ASSIGNED,
    attempt: 2,
    failures: 1,
  });
  expect(await agent.report(second, { succeeded: true })).toBe("RECORDED");
});

test("a failure that is worth no other try, and the last of all tries, are FAILED with the agent's reason", async () => {
  const agent = await readyAgent("failures");
  const hopeless = await pushed(agent, "failures-one");
  await agent.receive(hopeless);
  await agent.report(hopeless, { failed: "BAD_ROUTE", worthRetry: false, message: "why" });
  expect(await server.operator.command(hopeless.commandId)).toMatchObject({
    state: State.FAILED,
    reason: "BAD_ROUTE",
    message: "why",
  });
  const publish = await server.operator.publish("failures-two", { to: "failures", limits: { maxRetries: 1 } });
  const { commandId } = publish.targets[0] ?? { commandId: "" };
  for (const attempt of [1, 2]) {
    const command = await agent.nextCommand({ of: commandId });
    expect(command.attempt).toBe(attempt);
    await agent.receive(command);
    await agent.report(command, { failed: "BACKEND_UNREACHABLE" });
  }
  expect(await server.operator.command(commandId)).toMatchObject({
    state: State.FAILED,
    reason: "BACKEND_UNREACHABLE",
  });
});

test("a receipt that is repeated changes nothing", async () => {
  const agent = await readyAgent("receipts");
  const command = await pushed(agent, "receipts-one");
  await agent.receive(command);
  agent.receipt(command, Receipt.DUPLICATE);
  agent.receipt(command, Receipt.ACCEPTED);
  await until(async () => (await stateOf(command.commandId)) === State.RUNNING);
  agent.receipt({ ...command, attempt: 7 }, Receipt.REJECTED, { reason: "UNSUPPORTED" });
  expect(await agent.report(command, { succeeded: true })).toBe("RECORDED");
});

test("NOT_NOW gives a command back, and a heartbeat that tells places free brings it again", async () => {
  const agent = await readyAgent("full");
  const command = await pushed(agent, "full-one");
  agent.notNow(command);
  expect(await server.operator.commandIn(command.commandId, State.READY)).toMatchObject({ failures: 0 });
  await agent.heartbeat({ placesFree: 0 });
  expect(await stateOf(command.commandId)).toBe(State.READY);
  await agent.heartbeat({ placesFree: 3 });
  const again = await agent.nextCommand({ of: command.commandId });
  expect(again.attempt).toBe(2);
  expect(await server.operator.command(command.commandId)).toMatchObject({ state: State.ASSIGNED, failures: 0 });
});

test("while an agent says NOT_NOW, a removal still reaches it", async () => {
  const agent = await readyAgent("removes");
  const kept = await pushed(agent, "removes-one");
  await agent.receive(kept);
  await agent.report(kept, { succeeded: true });
  const refused = await pushed(agent, "removes-two");
  agent.notNow(refused);
  await server.operator.commandIn(refused.commandId, State.READY);
  await server.client(ProductPublishService).unpublishProductPublish({ id: kept.productPublishId });
  const removal = await agent.nextCommand();
  expect(removal).toMatchObject({ deploymentId: kept.deploymentId, generation: 2, reduces: true });
});

test("a removal that is answered NOT_NOW is pushed again after a heartbeat, not at once", async () => {
  const agent = await readyAgent("stuck");
  const kept = await pushed(agent, "stuck-one");
  await agent.receive(kept);
  await agent.report(kept, { succeeded: true });
  await server.client(ProductPublishService).unpublishProductPublish({ id: kept.productPublishId });
  for (const attempt of [1, 2, 3]) {
    const removal = await agent.nextCommand();
    expect(removal).toMatchObject({ reduces: true, attempt });
    agent.notNow(removal);
    await server.operator.commandIn(removal.commandId, State.READY);
    await agent.newToken(); // What was sent before it has arrived.
    expect((await server.operator.command(removal.commandId)).attempt).toBe(attempt);
    await agent.heartbeat({ placesFree: 0 });
  }
});

test("a command that the agent rejects has failed, with its reason", async () => {
  const agent = await readyAgent("rejects");
  const command = await pushed(agent, "rejects-one");
  agent.receipt(command, Receipt.REJECTED, { reason: "UNSUPPORTED", message: "no such feature" });
  expect(await server.operator.commandIn(command.commandId, State.FAILED)).toMatchObject({
    reason: "UNSUPPORTED",
    message: "no such feature",
  });
});

test("a push without a receipt is pushed again with the same attempt", async () => {
  const agent = await readyAgent("lost");
  const command = await pushed(agent, "lost-one");
  const again = await agent.next("deployCommand", ({ commandId }) => commandId === command.commandId);
  expect(again).toEqual(command);
});

test("at most the window is in flight, a removal has one place more, and a freed place is used", async () => {
  const agent = await readyAgent("window");
  const { window } = agent.session().greeting;
  const names = Array.from({ length: window + 1 }, (_, index) => `window-${index}`);
  const publishes = [];
  for (const name of names) publishes.push(await server.operator.publish(name, { to: "window" }));
  const taken = [];
  for (let count = 0; count < window; count += 1) taken.push(await agent.nextCommand());
  for (const command of taken) agent.receipt(command, Receipt.ACCEPTED);
  await agent.heartbeat();
  const waiting = publishes.at(-1)?.targets[0]?.commandId ?? "";
  expect(await stateOf(waiting)).toBe(State.READY);
  const { productPublishes } = await server.client(ProductPublishService).listProductPublishes({
    productId: "window-first",
    clusterId: "window",
  });
  await server.client(ProductPublishService).unpublishProductPublish({ id: productPublishes[0]?.id ?? "" });
  expect(await agent.nextCommand()).toMatchObject({ reduces: true });
  expect(await stateOf(waiting)).toBe(State.READY);
  const [first, second] = taken;
  if (first === undefined || second === undefined) throw new Error("no command came");
  await agent.report(first, { succeeded: true });
  agent.receipt(second, Receipt.REJECTED, { reason: "UNSUPPORTED" });
  expect(await agent.nextCommand()).toMatchObject({ commandId: waiting });
});

test("a cancel is sent, also in a full window, and the agent's word ends the command", async () => {
  const agent = await readyAgent("cancels");
  const command = await pushed(agent, "cancels-one");
  await agent.receive(command);
  await server.client(CommandService).cancelCommand({ id: command.commandId });
  const { commandId, attempt } = await agent.session().next("cancelCommand");
  expect({ commandId, attempt }).toEqual({ commandId: command.commandId, attempt: 1 });
  expect(await stateOf(commandId)).toBe(State.CANCELLING);
  expect(await agent.report(command, { cancelled: true })).toBe("RECORDED");
  expect(await stateOf(commandId)).toBe(State.CANCELLED);
});

test("what was in flight when the connection broke goes on as Sync tells", async () => {
  const agent = await readyAgent("returns");
  const running = await pushed(agent, "returns-running");
  await agent.receive(running);
  const assigned = await pushed(agent, "returns-assigned");
  const done = await pushed(agent, "returns-done");
  await agent.receive(done);
  const unreceived = await pushed(agent, "returns-unreceived");
  await server.operator.commandIn(running.commandId, State.RUNNING);
  agent.drop();

  const session = await agent.connect({ sync: false });
  const entry = ({ commandId, attempt }: typeof running) => ({ commandId, attempt, phase: "RUNNING" });
  const reply = await session.sync({
    journal: [entry(running), entry(assigned)],
    results: [scriptedResult(done, { succeeded: true })],
    last: true,
  });
  const action = (id: string) => reply.decisions.find(({ commandId }) => commandId === id)?.action;
  expect(action(running.commandId)).toBe(Action.CONTINUE);
  expect(action(assigned.commandId)).toBe(Action.REPORT_AGAIN);
  expect(reply.results).toEqual([expect.objectContaining({ commandId: done.commandId, disposition: 1 })]);
  expect(await stateOf(done.commandId)).toBe(State.SUCCEEDED);
  expect(await session.nextCommand({ of: unreceived.commandId })).toMatchObject({ attempt: 1 });
  expect(await session.report(running, { succeeded: true })).toBe("RECORDED");
  expect(await server.operator.command(running.commandId)).toMatchObject({ state: State.SUCCEEDED, attempt: 1 });
});

test("an agent that comes back with another journal gets what was in flight as a new attempt", async () => {
  const agent = await readyAgent("journals");
  const command = await pushed(agent, "journals-one");
  await agent.receive(command);
  await server.operator.commandIn(command.commandId, State.RUNNING);
  agent.drop();
  const session = await agent.connect({ greeting: { journalId: "another" } });
  expect(await session.nextCommand({ of: command.commandId })).toMatchObject({ attempt: 2, generation: 1 });
  expect(await server.operator.command(command.commandId)).toMatchObject({ failures: 0 });
});

test("a cancel that was decided while the agent was away reaches it in the answer to Sync", async () => {
  const agent = await readyAgent("away");
  const command = await pushed(agent, "away-one");
  await agent.receive(command);
  await server.operator.commandIn(command.commandId, State.RUNNING);
  agent.drop();
  await server.client(CommandService).cancelCommand({ id: command.commandId });
  const session = await agent.connect({ sync: false });
  const { commandId, attempt } = command;
  const reply = await session.sync({ journal: [{ commandId, attempt }], last: true });
  expect(reply.decisions).toEqual([expect.objectContaining({ commandId, attempt, action: Action.CANCEL })]);
});

test("a result for a command that the server does not know is answered UNKNOWN, so that the agent keeps it", async () => {
  const agent = await server.scriptedAgent({ cluster: "unknown" });
  const stranger = { commandId: "command_00000000000000000000000000", attempt: 1 };
  expect(await agent.report(stranger, { succeeded: true })).toBe("UNKNOWN");
});

test("specs are given only for the session's own commands in flight, by command and attempt", async () => {
  const agent = await readyAgent("fetches");
  const other = await server.scriptedAgent({ cluster: "fetches-other" });
  const command = await pushed(agent, "fetches-one");
  const reasons = async (from: ScriptedAgent, attempt: number) =>
    (await from.fetch([{ ...command, attempt }])).map(({ reason, spec }) => ({ reason, bytes: spec.length > 0 }));
  const nothing = [{ reason: "NOT_IN_FLIGHT", bytes: false }];
  expect(await reasons(other, 1)).toEqual(nothing);
  expect(await reasons(agent, 2)).toEqual(nothing);
  expect(await reasons(agent, 1)).toEqual([{ reason: "", bytes: true }]);
  await agent.report(command, { succeeded: true });
  expect(await reasons(agent, 1)).toEqual(nothing);
});

test("another agent's word about a command changes nothing, also beside the agent's own", async () => {
  const agent = await readyAgent("liars");
  const liar = await server.scriptedAgent({ cluster: "liars-other" });
  const command = await pushed(agent, "liars-one");
  const [own, ...foreign] = await Promise.all([
    agent.report(command, { succeeded: true }),
    liar.report(command, { failed: "LIE", worthRetry: false }),
    liar.report(command, { succeeded: true }),
  ]);
  expect([own, ...foreign]).toEqual(["RECORDED", "UNKNOWN", "UNKNOWN"]);
  liar.receipt(command, Receipt.REJECTED, { reason: "LIE" });
  expect(await liar.report(command, { succeeded: true })).toBe("UNKNOWN"); // after the receipt
  expect(await server.operator.command(command.commandId)).toMatchObject({ state: State.SUCCEEDED, reason: "" });
});

test("a fetch without a valid access token is UNAUTHENTICATED, and never fails the command", async () => {
  const agent = await readyAgent("tokens");
  const command = await pushed(agent, "tokens-one");
  const reasonFor = (token: string) =>
    agent.fetch([command], token).then(
      () => "taken",
      (error: unknown) => refusalOf(error).reason,
    );
  const { accessToken } = agent.session().greeting;
  const [head = "", body = "", signature = ""] = accessToken.split(".");
  expect(await reasonFor("rubbish")).toBe("UNAUTHENTICATED");
  expect(await reasonFor(server.adminToken)).toBe("UNAUTHENTICATED");
  expect(await reasonFor(await agent.assertion())).toBe("UNAUTHENTICATED");
  expect(await reasonFor([head, body, "A".repeat(signature.length)].join("."))).toBe("UNAUTHENTICATED");
  expect(await reasonFor(accessToken)).toBe("taken");
  expect(await stateOf(command.commandId)).toBe(State.ASSIGNED);
});

test("an older session's results are not taken once another has opened", async () => {
  const agent = await readyAgent("resends");
  const command = await pushed(agent, "resends-one");
  await agent.receive(command);
  const older = agent.session();
  await server.operator.commandIn(command.commandId, State.RUNNING);
  const { db } = server.database;
  // As another replica would: the row moves on, and this one has not heard of it yet.
  await db.updateTable("sessions").set({ epoch: 9 }).where("agent_id", "=", agent.agentId).execute();
  expect(await older.report(command, { succeeded: true })).toBe("RESEND");
  expect(await stateOf(command.commandId)).toBe(State.RUNNING);
});

test("a publish reaches each of many agents, and is LIVE when the last one has said so", async () => {
  const count = 40;
  const agents = await Promise.all(
    Array.from({ length: count }, (_, index) => server.scriptedAgent({ cluster: "many", name: `agent-${index}` })),
  );
  const { id } = await server.operator.publish("many", { to: "many" });
  await Promise.all(
    agents.map(async (agent) => {
      for (let commands = 0; commands < 2; commands += 1) {
        const command = await agent.nextCommand();
        await agent.receive(command);
        expect(await agent.report(command, { succeeded: true })).toBe("RECORDED");
      }
    }),
  );
  expect(await server.operator.publishOf(id)).toMatchObject({ state: PublishState.LIVE, liveTargets: count });
});
