/**
 * The database goes back and its agents do not: what a scripted agent tells of
 * another history, and what each answer of an operator does with it. The
 * whole, with a real restore, is in tests/faults/restore.test.ts.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { SyncDecision_Action } from "@bowline/contract/agent";
import { AcceptAgentRequest_Side as Side, Agent_State, AgentsService } from "@bowline/contract/agents";
import { AuditService } from "@bowline/contract/audit";
import { Command_State, CommandService } from "@bowline/contract/commands";
import { Deployment_Desired, DeploymentService } from "@bowline/contract/deployments";
import { InstallationService } from "@bowline/contract/installation";
import { ProductPublish_State, ProductPublishService } from "@bowline/contract/products";
import { newId } from "@bowline/kernel";
import { type ScriptedAgent, startServer, type TestServer } from "@bowline/testing";
import { refusal } from "./api.ts";

let server: TestServer;
let cases = 0;

beforeAll(async () => {
  server = await startServer();
});

const digest = (of: string) => of.repeat(64).slice(0, 64);

/** An agent that serves one publish: its data plane's and its routes' deployments, at generation 1. */
async function serving() {
  cases += 1;
  const name = `histories-${cases}`;
  const agent = await server.scriptedAgent({ cluster: name });
  const publish = await server.operator.publish(name, { to: name });
  const has: { deploymentId: string; generation: number; digest: string }[] = [];
  for (const _ of [1, 2]) {
    const command = await agent.nextCommand();
    await agent.receive(command);
    expect(await agent.report(command, { succeeded: true })).toBe("RECORDED");
    has.push({ deploymentId: command.deploymentId, generation: command.generation, digest: command.digest });
  }
  agent.drop();
  const [dataPlane, routes] = has;
  if (dataPlane === undefined || routes === undefined) throw new Error("two commands came");
  return { name, agent, publish, dataPlane, routes };
}

const get = (agent: ScriptedAgent) => server.client(AgentsService).getAgent({ id: agent.agentId });
const accept = (agent: ScriptedAgent, side: Side) =>
  server.client(AgentsService).acceptAgent({ id: agent.agentId, side });
const deploymentRow = (id: string) =>
  server.database.db.selectFrom("deployments").selectAll().where("id", "=", id).executeTakeFirstOrThrow();

test("what agrees is no dispute, and an epoch of another history only makes the server go on above it", async () => {
  const { agent, dataPlane, routes } = await serving();
  const session = await agent.connect({
    greeting: { highestEpoch: 4000 },
    sync: { deployments: [dataPlane, routes], highest: [dataPlane], last: true },
  });
  expect(session.greeting.epoch).toBe(4001);
  expect(await get(agent)).toMatchObject({ state: Agent_State.ENROLLED, decision: "", disputes: [] });
});

test("an epoch that no server gave is refused", async () => {
  const { agent } = await serving();
  const { reason } = await refusal(agent.connect({ greeting: { highestEpoch: 2_147_483_647 } }));
  expect(reason).toBe("PROTOCOL_VIOLATION");
});

test("an agent with newer generations is served nothing and asked nothing; the server's side is sent anew above them", async () => {
  const { name, agent, publish, dataPlane, routes } = await serving();
  await server.operator.publish(name, { to: name }); // of the new history: generation 2
  const newer = { ...routes, generation: 7, digest: digest("a") };
  const unknown = { deploymentId: newId("deployment"), generation: 3, digest: digest("b") };
  const journal = [{ commandId: newId("command"), attempt: 1, deploymentId: unknown.deploymentId, generation: 3 }];
  const session = await agent.connect({ sync: false });
  const reply = await session.sync({ journal, deployments: [dataPlane, newer], highest: [unknown], last: true });
  expect(reply).toMatchObject({ awaitingDecision: true, decisions: [{ action: SyncDecision_Action.HOLD }] });
  const waiting = await get(agent);
  expect(waiting).toMatchObject({ state: Agent_State.AWAITING_DECISION, decision: "DEPLOYMENTS_DIFFER" });
  const why = (id: string) => waiting.disputes.find(({ deploymentId }) => deploymentId === id);
  expect(waiting.disputes).toHaveLength(2);
  expect(why(routes.deploymentId)).toMatchObject({ why: "GENERATION_AHEAD", agentGeneration: 7, serverGeneration: 2 });
  expect(why(unknown.deploymentId)).toMatchObject({
    why: "UNKNOWN_DEPLOYMENT",
    agentGeneration: 3,
    serverGeneration: 0,
  });
  await session.heartbeat();
  expect(session.received.some(({ message }) => message.case === "deployCommand")).toBe(false);

  expect(await accept(agent, Side.SERVER)).toMatchObject({ state: Agent_State.ENROLLED, decision: "" });
  expect(await accept(agent, Side.SERVER)).toMatchObject({ state: Agent_State.ENROLLED }); // twice is no error
  await session.ended;
  await agent.connect({ sync: { deployments: [dataPlane, newer, unknown], last: true } });
  const command = await agent.nextCommand();
  expect(command).toMatchObject({ deploymentId: routes.deploymentId, generation: 8 });
  const spec = await agent.receive(command);
  expect(spec).toMatchObject({ generation: 8, desired: Deployment_Desired.RUNNING });
  expect(await agent.report(command, { succeeded: true })).toBe("RECORDED");
  expect(await get(agent)).toMatchObject({ state: Agent_State.ENROLLED });
  const { auditEvents } = await server.client(AuditService).listAuditEvents({ resourceId: agent.agentId });
  expect(auditEvents.map(({ action }) => action)).toEqual(["agent.accept", "agent.await-decision", "agent.enrol"]);
  const { commands } = await server.client(CommandService).listCommands({ clusterId: name });
  expect(commands.map(({ state }) => state).filter((state) => state === Command_State.SUPERSEDED)).toHaveLength(1);
  const { productPublishes } = await server.client(ProductPublishService).listProductPublishes({ clusterId: name });
  expect(productPublishes.map(({ id, state }) => [id === publish.id, state])).toEqual([
    [false, ProductPublish_State.LIVE],
    [true, ProductPublish_State.SUPERSEDED],
  ]);
});

test("the agent's side keeps what runs: nothing is sent, repaired or retried until the next publish, which is above it", async () => {
  const { name, agent, publish, dataPlane, routes } = await serving();
  const newer = { ...routes, generation: 9, digest: digest("c") };
  const sync = { deployments: [dataPlane, newer], last: true };
  const session = await agent.connect({ sync });
  await accept(agent, Side.AGENT);
  await session.ended;
  const after = await agent.connect({ sync });
  expect(await deploymentRow(routes.deploymentId)).toMatchObject({
    generation: 9,
    observed_generation: 9,
    observed_digest: newer.digest,
    held_reason: "AGENT_COPY",
    desired: "RUNNING",
  });
  expect(await get(agent)).toMatchObject({ state: Agent_State.ENROLLED });
  const commandId = publish.targets[0]?.commandId ?? "";
  const retried = server.client(CommandService).retryCommand({ id: commandId });
  expect((await refusal(retried)).reason).toBe("NEWER_GENERATION");
  const reconciled = server.client(DeploymentService).reconcileDeployment({ id: routes.deploymentId });
  expect((await refusal(reconciled)).reason).toBe("SPEC_UNKNOWN");
  await after.heartbeat();
  expect(after.received.some(({ message }) => message.case === "deployCommand")).toBe(false);
  expect(await server.operator.publishOf(publish.id)).toMatchObject({ conditions: ["AGENT_COPY"] });

  await server.operator.publish(name, { to: name });
  expect(await agent.nextCommand()).toMatchObject({ deploymentId: routes.deploymentId, generation: 10 });
  expect(await deploymentRow(routes.deploymentId)).toMatchObject({ held_reason: "" });
});

test("the same generation with another digest awaits a decision, also where the server is ahead by now", async () => {
  const equal = await serving();
  await equal.agent.connect({ sync: { highest: [{ ...equal.routes, digest: digest("d") }], last: true } });
  expect(await get(equal.agent)).toMatchObject({
    state: Agent_State.AWAITING_DECISION,
    disputes: [{ why: "DIGEST_DIFFERS", agentGeneration: 1, serverGeneration: 1, runs: false }],
  });
  const { name, agent, routes } = await serving();
  await server.operator.publish(name, { to: name });
  await agent.connect({ sync: { highest: [{ ...routes, digest: digest("d") }], last: true } });
  expect((await get(agent)).disputes).toMatchObject([{ why: "DIGEST_DIFFERS", serverGeneration: 2 }]);
  await accept(agent, Side.SERVER);
  await agent.connect({ sync: { highest: [{ ...routes, digest: digest("d") }], last: true } });
  expect(await agent.nextCommand()).toMatchObject({ deploymentId: routes.deploymentId, generation: 3 });
});

test("a removal that the server wants is sent anew, above the agent's generations, whichever side is accepted", async () => {
  for (const side of [Side.SERVER, Side.AGENT]) {
    const { agent, publish, dataPlane, routes } = await serving();
    await server.client(ProductPublishService).unpublishProductPublish({ id: publish.id });
    const newer = { ...routes, generation: 5, digest: digest("e") };
    await agent.connect({ sync: { deployments: [dataPlane, newer], last: true } });
    expect(await get(agent)).toMatchObject({ state: Agent_State.AWAITING_DECISION });
    await accept(agent, side);
    await agent.connect({ sync: { deployments: [dataPlane, newer], last: true } });
    const command = await agent.nextCommand();
    expect(command).toMatchObject({ deploymentId: routes.deploymentId, generation: 6, reduces: true });
    expect(await agent.receive(command)).toMatchObject({ desired: Deployment_Desired.ABSENT });
    await agent.report(command, { succeeded: true });
  }
});

test("an agent that has less than was recorded gets that again, and nobody is asked; one that does not tell all is left alone", async () => {
  const { name, agent, dataPlane, routes } = await serving();
  const silent = await agent.connect({ sync: { deployments: [dataPlane], last: true } });
  await silent.heartbeat();
  expect(silent.received.some(({ message }) => message.case === "deployCommand")).toBe(false);
  agent.drop();
  await agent.connect({ greeting: { stateDigest: digest("9") }, sync: { deployments: [dataPlane], last: true } });
  const command = await agent.nextCommand();
  expect(command).toMatchObject({ deploymentId: routes.deploymentId, generation: 2, attempt: 1 });
  expect(await agent.receive(command)).toMatchObject({ generation: 2, desired: Deployment_Desired.RUNNING });
  expect(await agent.report(command, { succeeded: true })).toBe("RECORDED");
  expect(await get(agent)).toMatchObject({ state: Agent_State.ENROLLED, disputes: [] });
  const { commands } = await server.client(CommandService).listCommands({ clusterId: name });
  expect(commands.map(({ createdBy }) => createdBy).filter((by) => by === "lost-journal")).toHaveLength(1);
});

test("an agent of a later incarnation awaits a decision even where nothing differs", async () => {
  const { agent, dataPlane, routes } = await serving();
  const sync = { deployments: [dataPlane, routes], last: true };
  await agent.connect({ greeting: { incarnation: 1_000_000_000 }, sync });
  expect(await get(agent)).toMatchObject({ state: Agent_State.AWAITING_DECISION, decision: "INCARNATION_AHEAD" });
  await accept(agent, Side.AGENT);
  await agent.connect({ greeting: { incarnation: 1 }, sync });
  expect(await get(agent)).toMatchObject({ state: Agent_State.ENROLLED });
});

test("results of a decision's time stay with the agent", async () => {
  const { agent, routes } = await serving();
  const about = { commandId: newId("command"), attempt: 1 };
  const session = await agent.connect({ sync: false });
  const reply = await session.sync({
    results: [about],
    highest: [{ ...routes, generation: 4, digest: digest("f") }],
    last: true,
  });
  expect(reply.results).toMatchObject([{ ...about, disposition: 5 }]);
  expect(await session.report(about, { succeeded: true })).toBe("UNKNOWN");
});

test("while dispatch is held nothing is claimed or pushed, everybody is told, and confirming lets it go on", async () => {
  const { name, agent, dataPlane, routes } = await serving();
  const { db } = server.database;
  const installation = server.client(InstallationService);
  await db.updateTable("installation").set({ dispatch_held_at: new Date() }).execute();
  const sync = { deployments: [dataPlane, routes], last: true };
  const session = await agent.connect({ sync });
  await server.operator.publish(name, { to: name });
  expect(await installation.getInstallation({})).toMatchObject({ dispatchHeld: true });
  const ready = (await (await fetch(`${server.url}/ready`)).json()) as { status: string; checks: { dispatch: string } };
  expect(ready).toMatchObject({ status: "ready", checks: { dispatch: expect.stringContaining("held since") } });
  await session.heartbeat();
  const { commands } = await server.client(CommandService).listCommands({ clusterId: name });
  expect(commands[0]?.state).toBe(Command_State.READY);
  expect(session.received.some(({ message }) => message.case === "deployCommand")).toBe(false);
  expect(await installation.confirmRestore({})).toMatchObject({ dispatchHeld: false });
  expect(await session.nextCommand()).toMatchObject({ deploymentId: routes.deploymentId, generation: 2 });
  expect(await installation.confirmRestore({})).toMatchObject({ dispatchHeld: false });
  const { auditEvents } = await server.client(AuditService).listAuditEvents({});
  expect(auditEvents.filter(({ action }) => action === "installation.confirm-restore")).toHaveLength(1);
});
