/** What runs differs from what is desired: shown, repaired where the policy says so, held where repairs don't help. */
import { beforeAll, expect, test } from "@jest/globals";
import { AgentsService } from "@bowline/contract/agents";
import { ClusterPolicy_DriftRepair as Repair, ClusterService } from "@bowline/contract/clusters";
import { Command_State as State, CommandService } from "@bowline/contract/commands";
import { DeploymentService } from "@bowline/contract/deployments";
import { type ScriptedAgent, startServer, type TestServer, until } from "@bowline/testing";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});

/** An agent with a data plane and one product's routes, all as desired; `policy` is what drift leads to. */
async function serving(cluster: string, driftRepair: Repair) {
  await server.client(ClusterService).createCluster({
    cluster: { name: cluster, runtime: "local", policy: { allowPrivateBackends: true, driftRepair } },
  });
  const agent = await server.scriptedAgent({ cluster });
  await server.operator.publish(`${cluster}-product`, { to: cluster });
  const dataPlane = await done(agent);
  await done(agent);
  let observation = 0;
  /** The agent observes its data plane so, in an observation of its own. */
  const observe = (phase: string, generation = dataPlane.generation, rest: { altered?: boolean } = {}) =>
    agent.state({
      observation: (observation += 1),
      deployments: [
        {
          deploymentId: dataPlane.deploymentId,
          generation,
          instances: [{ workload: "proxy", phase, health: "HEALTHY", ...rest }],
        },
      ],
    });
  const deployment = () => server.client(DeploymentService).getDeployment({ id: dataPlane.deploymentId });
  const phaseSeen = (phase: string) => until(async () => (await deployment()).instances[0]?.phase === phase);
  return { agent, dataPlane, observe, deployment, phaseSeen };
}

async function done(agent: ScriptedAgent, outcome: Parameters<ScriptedAgent["report"]>[1] = { succeeded: true }) {
  const command = await agent.nextCommand();
  await agent.receive(command);
  await agent.report(command, outcome);
  return command;
}

test("one observation that differs is no drift, a second one is, and one that fits ends it; nothing is repaired by default", async () => {
  const { observe, deployment, phaseSeen, dataPlane } = await serving("shown", Repair.SHOW);
  observe("EXITED");
  await phaseSeen("EXITED");
  expect(await deployment()).toMatchObject({ drifted: false });
  observe("EXITED");
  await until(async () => (await deployment()).drifted);
  const { commands } = await server.client(CommandService).listCommands({ deploymentId: dataPlane.deploymentId });
  expect(commands).toHaveLength(1);
  observe("RUNNING");
  await until(async () => !(await deployment()).drifted);
});

test("what runs and was changed by hand is drift", async () => {
  const { observe, deployment, dataPlane } = await serving("altered", Repair.SHOW);
  observe("RUNNING", dataPlane.generation, { altered: true });
  observe("RUNNING", dataPlane.generation, { altered: true });
  await until(async () => (await deployment()).drifted);
});

test("drift is repaired by a new command where the policy says so; the fourth time in an hour it is HELD, until somebody enqueues", async () => {
  const { agent, dataPlane, observe, deployment } = await serving("repaired", Repair.REPAIR);
  let { generation } = dataPlane;
  for (let repair = 1; repair <= 3; repair += 1) {
    observe("EXITED", generation);
    observe("EXITED", generation);
    const command = await done(agent);
    generation += 1;
    expect(command).toMatchObject({ deploymentId: dataPlane.deploymentId, generation, attempt: 1 });
    expect(await server.operator.command(command.commandId)).toMatchObject({ createdBy: "drift-repair" });
    expect(await deployment()).toMatchObject({ drifted: false, heldReason: "", observedGeneration: generation });
  }
  observe("EXITED", generation);
  observe("EXITED", generation);
  await until(async () => (await deployment()).heldReason);
  expect(await deployment()).toMatchObject({ heldReason: "REPAIRED_TOO_OFTEN", drifted: true, generation });

  const reconciled = await server.client(DeploymentService).reconcileDeployment({ id: dataPlane.deploymentId });
  expect(reconciled).toMatchObject({ heldReason: "", drifted: false, generation: generation + 1 });
  await done(agent);
  // What a person asked for starts the count anew.
  observe("EXITED", generation + 1);
  observe("EXITED", generation + 1);
  expect(await done(agent)).toMatchObject({ generation: generation + 2 });
});

test("a repair that fails holds the deployment, and nothing is repaired any more", async () => {
  const { agent, observe, deployment, dataPlane } = await serving("failing", Repair.REPAIR);
  observe("EXITED");
  observe("EXITED");
  const command = await done(agent, { failed: "PORT_TAKEN", worthRetry: false });
  await server.operator.commandIn(command.commandId, State.FAILED);
  expect(await deployment()).toMatchObject({ heldReason: "PORT_TAKEN" });
  observe("EXITED", command.generation);
  observe("EXITED", command.generation);
  await until(async () => (await deployment()).drifted);
  const { commands } = await server.client(CommandService).listCommands({ deploymentId: dataPlane.deploymentId });
  expect(commands).toHaveLength(2);
});

test("what belongs to no known deployment is shown as a stray, until it is gone or a new session does not tell it", async () => {
  const { agent } = await serving("strays", Repair.REPAIR);
  const strays = async () => (await server.client(AgentsService).getAgent({ id: agent.agentId })).strays;
  const observed = (deploymentId: string, more: object = {}) => ({
    deploymentId,
    generation: 4,
    instances: [{ workload: "web", phase: "RUNNING", reason: "stray: process 7" }],
    ...more,
  });
  agent.state({ observation: 9, deployments: [observed("deployment_lost"), observed("deployment_other")] });
  await until(async () => (await strays()).length === 2);
  expect((await strays())[0]).toMatchObject({
    deploymentId: "deployment_lost",
    generation: 4,
    instances: ["web 0 running: stray: process 7"],
  });
  agent.state({ observation: 10, deployments: [observed("deployment_lost", { absent: true, instances: [] })] });
  await until(async () => (await strays()).length === 1);
  await agent.connect();
  expect(await strays()).toEqual([]);
});
