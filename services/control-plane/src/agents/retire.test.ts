/** Retiring an agent: what its dead host owes ends in the books, and its key opens nothing. */
import { expect, test } from "@jest/globals";
import { Agent_Connectivity, Agent_State } from "@bowline/contract/agents";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { lockClusterForPublish } from "../clusters/index.ts";
import { again, converge } from "../commands/index.ts";
import { systemPrincipal } from "../platform/context.ts";
import { reasonOf } from "../platform/in-process.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { startSlices } from "./enrolment.fixture.ts";

async function start() {
  const slices = await startSlices((await testDatabase()).db);
  const { engine, db } = slices;
  await slices.cluster("factory-7");
  const agentId = (await slices.enrol(await slices.token("factory-7"), { hostname: "press" })).agentId;
  const { cluster_id: clusterId } = await db.selectFrom("agents").select("cluster_id").executeTakeFirstOrThrow();
  const wish = async (desired: Deployment_Desired, deploymentId?: string) => {
    const owner = { organisationId: "org_x", kind: "test", ownerId: "test_1", createdBy: "test" };
    const build = () => ({ desired });
    const [enqueued] = await transact(db, (work) =>
      converge(engine, work, [{ deploymentId, agentId, clusterId, ...owner, build }]),
    );
    if (enqueued === undefined) throw new Error("nothing was enqueued");
    return enqueued;
  };
  const states = async () =>
    (
      await db
        .selectFrom("command_states")
        .select(["state", "reason"])
        .where("state", "<>", "SUPERSEDED")
        .orderBy("sequence")
        .execute()
    ).map(({ state, reason }) => `${state} ${reason}`);
  return { ...slices, agentId, clusterId, wish, states };
}

const { RUNNING, ABSENT } = Deployment_Desired;

/** Resolves when a statement waits for a lock on a row of this table. */
const untilWaitedFor = (db: Db, table: string) =>
  until(async () => {
    const { rows } = await sql`SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
      AND wait_event_type = 'Lock' AND query LIKE ${`%"${table}"%`}`.execute(db);
    return rows.length > 0;
  });

test("an agent that is connected is retired only by force, and then its session ends", async () => {
  const { agentId, operator, session, closed } = await start();
  await session(agentId);
  expect(await reasonOf(operator.agents.retireAgent({ id: "press" }))).toBe("AGENT_ONLINE");
  for (const _ of [1, 2]) {
    expect(await operator.agents.retireAgent({ id: agentId, force: true })).toMatchObject({
      state: Agent_State.RETIRED,
      connectivity: Agent_Connectivity.OFFLINE,
      offlineReason: "RETIRED",
      etag: "2",
    });
  }
  expect(closed).toEqual([agentId]);
});

test("what is in flight is LOST, what waits is CANCELLED, removals too; then the agent can be deleted", async () => {
  const { agentId, operator, wish, states, db } = await start();
  const [one, two] = [await wish(RUNNING), await wish(RUNNING)];
  await db.updateTable("command_states").set({ state: "RUNNING", attempt: 1 }).execute();
  await wish(ABSENT, one.deploymentId); // waits behind the one that runs
  await wish(RUNNING);
  await db.updateTable("command_states").set({ state: "SUCCEEDED" }).where("command_id", "=", two.commandId).execute();
  await operator.agents.retireAgent({ id: agentId });
  expect(await states()).toEqual([
    "LOST AGENT_RETIRED",
    "SUCCEEDED ",
    "CANCELLED AGENT_RETIRED",
    "CANCELLED AGENT_RETIRED",
  ]);
  const { auditEvents } = await operator.audit.listAuditEvents({ actionPrefix: "agent.retire" });
  expect(auditEvents).toHaveLength(1);
  expect(auditEvents[0]?.after).toMatchObject({ state: "RETIRED", settled: { commands: 3, deployments: 3 } });
  await operator.agents.deleteAgent({ id: agentId });
  expect(await reasonOf(operator.agents.getAgent({ id: agentId }))).toBe("NOT_FOUND");
});

test("what is being published when an agent is retired or revoked is settled with it", async () => {
  const { agentId, clusterId, db, engine, operator, states } = await start();
  for (const leave of [operator.agents.revokeAgent, operator.agents.retireAgent]) {
    let leaving: Promise<unknown> | undefined;
    await transact(db, async (work) => {
      await lockClusterForPublish(work.tx, clusterId, systemPrincipal);
      leaving ??= leave({ id: agentId });
      await untilWaitedFor(db, "clusters");
      const about = { agentId, clusterId, organisationId: "org_x", kind: "test", ownerId: "test_1", createdBy: "test" };
      const build = () => ({ desired: RUNNING });
      await converge(engine, work, [{ deploymentId: undefined, ...about, build }]);
    });
    await leaving;
  }
  expect(await states()).toEqual(["CANCELLED AGENT_REVOKED", "CANCELLED AGENT_RETIRED"]);
  expect(await db.selectFrom("deployments").select("is_absent").execute()).toEqual([
    { is_absent: true },
    { is_absent: true },
  ]);
});

test("a cluster that is being deleted leaves an agent RETIRED that an operator retires at that moment", async () => {
  const { agentId, clusterId, db, agents } = await start();
  let removing: Promise<void> | undefined;
  await transact(db, async ({ tx }) => {
    await tx.updateTable("agents").set({ state: "RETIRED" }).where("id", "=", agentId).execute();
    removing ??= agents.resident.removeAll(clusterId);
    await untilWaitedFor(db, "agents");
  });
  await removing;
  expect(await db.selectFrom("agents").select("state").execute()).toEqual([{ state: "RETIRED" }]);
});

test("a removal that waited for a revoked agent ends when the agent is retired", async () => {
  const { agentId, operator, wish, states } = await start();
  const { deploymentId } = await wish(RUNNING);
  await wish(ABSENT, deploymentId);
  await operator.agents.revokeAgent({ id: agentId });
  expect(await states()).toEqual(["READY AGENT_REVOKED"]);
  expect(await reasonOf(operator.agents.deleteAgent({ id: agentId }))).toBe("AGENT_NOT_EMPTY");
  expect(await operator.agents.retireAgent({ id: agentId })).toMatchObject({ state: Agent_State.RETIRED });
  expect(await states()).toEqual(["CANCELLED AGENT_RETIRED"]);
  await operator.agents.deleteAgent({ id: agentId });
});

test("what was settled takes no further wish", async () => {
  const { agentId, operator, wish, db, engine } = await start();
  const { deploymentId } = await wish(RUNNING);
  await operator.agents.retireAgent({ id: agentId });
  const anew = transact(db, (work) => again(engine, work, deploymentId, { createdBy: "test" }));
  await expect(anew).rejects.toMatchObject({ reason: "DEPLOYMENT_ABSENT" });
  await expect(wish(RUNNING, deploymentId)).rejects.toMatchObject({ reason: "DEPLOYMENT_ABSENT" });
});

test("the name of a retired agent is free for the next", async () => {
  const { agentId, operator, enrol, token } = await start();
  await operator.agents.retireAgent({ id: agentId });
  const next = await enrol(await token("factory-7"), { hostname: "press" });
  expect(next.name).toBe("press");
  expect((await operator.agents.getAgent({ id: "press" })).id).toBe(next.agentId);
});
