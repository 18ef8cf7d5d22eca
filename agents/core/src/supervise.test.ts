/** The real core against a scripted server over a real socket, with a scripted runtime below. */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "@jest/globals";
import { CommandReceipt_Disposition, DeployResult_Outcome, ResultAck_Disposition } from "@bowline/contract/agent";
import { Deployment_Desired, DeploymentSchema, type Deployment } from "@bowline/contract/deployments";
import { atEnd, startScriptedServer, temporaryFolder, until, type ScriptedServer } from "@bowline/testing";
import type { AgentConfig } from "./config.ts";
import { loadIdentity } from "./identity.ts";
import { createLog } from "./log.ts";
import type { ConvergeEnd, ObservedDeployment, Runtime } from "./runtime.ts";
import { run, type AgentEnd } from "./supervise.ts";

/** A runtime whose converges end as the test says; what it "runs" outlives the agent. */
function scriptedRuntime() {
  const world = new Map<string, number>();
  const converged: string[] = [];
  const effects: string[] = [];
  const held = new Map<string, (end: ConvergeEnd) => void>();
  const failing = new Map<string, ConvergeEnd>();
  const holding = new Set<string>();
  const runtime = {
    describe: async () => ({
      kind: "local" as const,
      version: "1",
      identity: "scripted",
      capabilities: [],
      instanceLimit: 0,
      problem: "",
    }),
    async converge(spec: Deployment, _report: unknown, signal: AbortSignal): Promise<ConvergeEnd> {
      converged.push(`${spec.id} ${spec.generation}`);
      if (holding.has(spec.id)) {
        const end = await new Promise<ConvergeEnd>((resolve) => {
          held.set(spec.id, resolve);
          signal.addEventListener("abort", () => resolve({ kind: "cancelled" }), { once: true });
        });
        if (end.kind !== "succeeded") return end;
      }
      const failure = failing.get(spec.id);
      if (failure !== undefined) return failure;
      if (world.get(spec.id) !== spec.generation) effects.push(`${spec.id} ${spec.generation}`); // R1: adopted otherwise
      world.set(spec.id, spec.generation);
      return { kind: "succeeded" };
    },
    list: async (): Promise<ObservedDeployment[]> =>
      [...world].map(([deploymentId, generation]) => ({ deploymentId, generation, instances: [], absent: false })),
    watch: (_changed: unknown, signal: AbortSignal) =>
      new Promise<void>((resolve) => {
        if (signal.aborted) resolve();
        signal.addEventListener("abort", () => resolve(), { once: true });
      }),
  } as unknown as Runtime;
  return { runtime, converged, effects, held, failing, holding };
}

type World = ReturnType<typeof scriptedRuntime>;

/** An agent on a folder; `stop` ends it in order and tells how its life ended. */
async function startAgent(server: ScriptedServer, world: World, dataDir = temporaryFolder()) {
  const ending = new AbortController();
  const config: AgentConfig = {
    server: server.url,
    dataDir,
    name: "scripted",
    labels: {},
    registrationToken: server.token,
    caFile: undefined,
    caFingerprint: undefined,
    clientCertificate: undefined,
    proxies: {},
    transport: "auto",
    streamRetryMs: 300_000,
    greetingWithinMs: 20_000,
    logFormat: "json",
    logLevel: "silent",
    lifelineStdin: false,
    keyMaxAgeMs: 0,
    stopWorkloadsOnExit: false,
    hostEnvironment: {},
    docker: {},
    allowHostPaths: false,
    deny: new Set(),
    faults: undefined,
    traces: undefined,
  };
  const life = run(
    {
      runtime: world.runtime,
      dataPlanes: [],
      config,
      identity: await loadIdentity(dataDir),
      openSecret: async (sealed) => Buffer.from(sealed),
      log: createLog({ format: "json", level: "silent" }),
    },
    ending.signal,
  );
  const stop = async (): Promise<AgentEnd> => {
    ending.abort();
    return await life;
  };
  atEnd(async () => void (await stop()));
  return { dataDir, stop, life };
}

function spec(id: string, generation = 1, desired = Deployment_Desired.RUNNING): Deployment {
  return create(DeploymentSchema, { id: `deployment_${id}`, generation, desired });
}

test("an agent enrols, takes a command, and says goodbye", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  const agent = await startAgent(server, world);
  const session = await server.nextSession();
  const command = server.command(spec("a"));
  session.push(command);
  expect((await session.receipt(command)).disposition).toBe(CommandReceipt_Disposition.ACCEPTED);
  const result = await session.result(command);
  expect(result).toMatchObject({ outcome: DeployResult_Outcome.SUCCEEDED, state: { generation: 1 } });
  expect(await agent.stop()).toEqual({ exitCode: 0 });
  expect(await session.ended).toBe(true);
});

test("a lost enrolment reply costs a try, and the same key asks again", async () => {
  const server = await startScriptedServer();
  server.ways.loseEnrolments = 1;
  const agent = await startAgent(server, scriptedRuntime());
  await server.nextSession();
  expect(server.enrolments).toHaveLength(2);
  expect(server.enrolments[0]?.signingKey).toBe(server.enrolments[1]?.signingKey);
  await agent.stop();
});

test("a command that is pushed many times runs once", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  await startAgent(server, world);
  const session = await server.nextSession();
  const command = server.command(spec("a"));
  for (let push = 0; push < 5; push += 1) session.push(command);
  await session.result(command);
  session.push(command);
  await until(() => session.resultsOf(command).length >= 2); // Answered with the outcome of the first.
  expect(world.converged).toEqual(["deployment_a 1"]);
});

test("a cancel ends what runs, and one for a command that is not here is answered too", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  await startAgent(server, world);
  const session = await server.nextSession();
  const command = server.command(spec("a"));
  world.holding.add("deployment_a");
  session.push(command);
  await until(() => world.held.has("deployment_a"));
  session.cancel(command);
  expect((await session.result(command)).outcome).toBe(DeployResult_Outcome.CANCELLED);
  const unknown = server.command(spec("b"));
  session.cancel(unknown);
  expect(await session.receipt(unknown)).toMatchObject({ disposition: CommandReceipt_Disposition.REJECTED });
});

test("a command whose secret the server cannot read is rejected with what to do; the other of the same fetch runs", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  await startAgent(server, world);
  const session = await server.nextSession();
  const [broken, sound] = [server.command(spec("a")), server.command(spec("b"))];
  server.ways.fetched = ({ deployments = [] }) => ({
    deployments: deployments.map((answer) =>
      answer.commandId === broken.commandId
        ? { ...answer, reason: "SECRET_UNREADABLE", message: "set orders-key again", spec: new Uint8Array() }
        : answer,
    ),
  });
  session.push(broken);
  session.push(sound);
  expect(await session.receipt(broken)).toMatchObject({
    disposition: CommandReceipt_Disposition.REJECTED,
    reason: "SECRET_UNREADABLE",
    message: "set orders-key again",
  });
  expect((await session.result(sound)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
  expect(world.converged).toEqual(["deployment_b 1"]);
});

test("a run that takes longer than its run timeout fails with RUN_TIMEOUT", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  await startAgent(server, world);
  const session = await server.nextSession();
  world.holding.add("deployment_a");
  const command = server.command(spec("a"), { runTimeoutMs: 50 });
  session.push(command);
  const outcome = DeployResult_Outcome.FAILED;
  expect(await session.result(command)).toMatchObject({ outcome, reason: "RUN_TIMEOUT", worthRetry: true });
});

test("commands of one deployment run one after the other, and an older generation is refused", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  await startAgent(server, world);
  const session = await server.nextSession();
  world.holding.add("deployment_a");
  const [first, second] = [server.command(spec("a", 1)), server.command(spec("a", 2))];
  session.push(first);
  await until(() => world.held.has("deployment_a"));
  session.push(second);
  await session.receipt(second);
  expect(world.converged).toEqual(["deployment_a 1"]);
  world.holding.delete("deployment_a");
  world.held.get("deployment_a")?.({ kind: "succeeded" });
  await session.result(second);
  expect(world.effects).toEqual(["deployment_a 1", "deployment_a 2"]);
  const older = server.command(spec("a", 1));
  session.push(older);
  expect(await session.receipt(older)).toMatchObject({ reason: "NEWER_GENERATION" });
});

test("a result is told on every session until it is acknowledged, and then no more", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  const agent = await startAgent(server, world);
  const session = await server.nextSession();
  server.ways.acknowledge = undefined;
  const command = server.command(spec("a"));
  session.push(command);
  await session.result(command);
  session.drop();
  const second = await server.nextSession();
  await second.result(command);
  await agent.stop();

  server.ways.acknowledge = ResultAck_Disposition.RECORDED;
  const again = await startAgent(server, world, agent.dataDir);
  const third = await server.nextSession();
  await third.result(command);
  third.drop();
  const fourth = await server.nextSession();
  expect(fourth.resultsOf(command)).toEqual([]);
  await again.stop();
  expect(world.converged).toEqual(["deployment_a 1"]);
});

test("a command under way when the agent stops is taken up by the next start, and ends once", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  const agent = await startAgent(server, world);
  const session = await server.nextSession();
  world.holding.add("deployment_a");
  const command = server.command(spec("a"));
  session.push(command);
  await until(() => world.held.has("deployment_a"));
  await agent.stop();
  expect(session.resultsOf(command)).toEqual([]);

  world.holding.delete("deployment_a");
  await startAgent(server, world, agent.dataDir);
  const second = await server.nextSession();
  expect((await second.result(command)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
  expect(second.greeting.journalCounter).toBe(session.greeting.journalCounter + 1);
  expect(second.greeting.journalId).toBe(session.greeting.journalId);
  expect(world.effects).toEqual(["deployment_a 1"]);
});

test("the third start of one attempt is reported AGENT_CRASHED instead of run", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  world.holding.add("deployment_a");
  let agent = await startAgent(server, world);
  const command = server.command(spec("a"));
  (await server.nextSession()).push(command);
  await until(() => world.converged.length === 1);
  await agent.stop();
  agent = await startAgent(server, world, agent.dataDir);
  await server.nextSession();
  await until(() => world.converged.length === 2);
  await agent.stop();
  await startAgent(server, world, agent.dataDir);
  const session = await server.nextSession();
  expect(await session.result(command)).toMatchObject({ reason: "AGENT_CRASHED" });
  expect(world.converged).toHaveLength(2);
});

test("a fetch that fails, and one without a valid token, cost time and not the command", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  await startAgent(server, world);
  const session = await server.nextSession();
  server.ways.failFetches = { times: 1, code: Code.Unauthenticated };
  const command = server.command(spec("a"));
  session.push(command);
  expect((await session.result(command)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
  expect(session.received.some((message) => message.case === "tokenRequest")).toBe(true);
});

test("a spec with a field that this agent does not know is refused, not approximated", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  await startAgent(server, world);
  const session = await server.nextSession();
  const newer = spec("a");
  newer.$unknown = [{ no: 900, wireType: 0, data: new Uint8Array([1]) }];
  const command = server.command(newer);
  session.push(command);
  expect(await session.result(command)).toMatchObject({ reason: "UNSUPPORTED", worthRetry: false });
  expect(world.converged).toEqual([]);
});

test("an agent that is refused for good ends with exit code 4 and the reason", async () => {
  const server = await startScriptedServer();
  const agent = await startAgent(server, scriptedRuntime());
  await server.nextSession();
  await agent.stop();
  const { ErrorInfoSchema } = await import("@bowline/contract/errors");
  server.ways.refuse = new ConnectError("revoked", Code.PermissionDenied, undefined, [
    { desc: ErrorInfoSchema, value: { reason: "AGENT_REVOKED", domain: "bowline" } },
  ]);
  const again = await startAgent(server, scriptedRuntime(), agent.dataDir);
  expect(await again.life).toEqual({ exitCode: 4, reason: "AGENT_REVOKED", message: "revoked" });
});

test("after each reconnect everything that runs is told again", async () => {
  const server = await startScriptedServer();
  const world = scriptedRuntime();
  const agent = await startAgent(server, world);
  const first = await server.nextSession();
  const command = server.command(spec("a"));
  first.push(command);
  await first.result(command);
  await agent.stop();
  await startAgent(server, world, agent.dataDir);
  for (let round = 0; round < 2; round += 1) {
    const session = await server.nextSession();
    const told = await until(() => session.received.find((message) => message.case === "stateReport"));
    if (told.case === "stateReport") expect(told.value.deployments[0]?.deploymentId).toBe("deployment_a");
    expect(session.sync.at(-1)?.deployments[0]).toMatchObject({ deploymentId: "deployment_a", generation: 1 });
    session.drop();
  }
});
