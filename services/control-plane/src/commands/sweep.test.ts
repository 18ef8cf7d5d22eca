/** The sweep's bounds: what it may not wait for, and what may not wait for it. */
import { beforeEach, expect, test } from "@jest/globals";
import { DeployResult_Outcome as Outcome, SyncDecision_Action } from "@bowline/contract/agent";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { type Db, transact } from "../platform/transactions.ts";
import { startEngine, type TestEngine } from "./engine.fixture.ts";
import { converge, reconcile, sessionEnded, sweep } from "./index.ts";
import { cancel } from "./requests.ts";

let db: Db;
let engine: TestEngine;
beforeEach(async () => {
  ({ db } = await testDatabase());
  engine = await startEngine(db);
});

/** Many at once, in one commit. */
async function enqueueMany(count: number, ...how: Partial<Parameters<TestEngine["wish"]>>) {
  const wishes = Array.from({ length: count }, () => engine.wish(...how));
  return transact(db, (work) => converge(engine.ports, work, wishes));
}

const longAgo = sql<Date>`now() - interval '3 days'`;

test("removals at hosts that are away, and wishes that wait for a free place, keep nothing else from being swept", async () => {
  const { ports, enqueue, stateOf, agentId } = engine;
  await enqueueMany(120, undefined, Deployment_Desired.ABSENT);
  await enqueueMany(120);
  await db
    .updateTable("command_states")
    .set({ state: "RUNNING", attempt: 1, unbound_at: longAgo, received_at: longAgo, updated_at: longAgo })
    .where("reduces", "=", true)
    .execute();
  await db.updateTable("command_states").set({ updated_at: longAgo }).execute();
  const { commandId } = await enqueue(undefined, Deployment_Desired.RUNNING, { deadlineMs: 1 });
  await sql`SELECT pg_sleep(0.01)`.execute(db);
  await sweep(ports);
  expect(await stateOf(commandId)).toBe("EXPIRED");
  const open = await db
    .selectFrom("command_states")
    .select(sql<number>`count(*)::int`.as("count"))
    .where("agent_id", "=", agentId)
    .where("ended_at", "is", null)
    .executeTakeFirstOrThrow();
  expect(open.count).toBe(240);
});

test("pages of what is open follow one another, round after round, and each comes to its turn", async () => {
  const { ports } = engine;
  await enqueueMany(210, undefined, Deployment_Desired.RUNNING, { deadlineMs: 1 });
  await sql`SELECT pg_sleep(0.01)`.execute(db);
  const place = { from: "" };
  expect([await sweep(ports, { place }), await sweep(ports, { place }), await sweep(ports, { place })]).toEqual([
    100, 100, 10,
  ]);
  expect(place.from).toBe("");
});

test("a command whose slice throws costs that command, not the sweep of the others", async () => {
  const { ports, enqueue, stateOf } = engine;
  const poisoned = await enqueue(undefined, Deployment_Desired.RUNNING, { deadlineMs: 1 });
  const others = [
    await enqueue(undefined, Deployment_Desired.RUNNING, { deadlineMs: 1 }),
    await enqueue(undefined, Deployment_Desired.RUNNING, { deadlineMs: 1 }),
  ];
  await sql`SELECT pg_sleep(0.01)`.execute(db);
  ports.owners.set("test", {
    changed: async (_work, commands) => {
      if (commands.some(({ id }) => id === poisoned.commandId)) throw new Error("a defect of the slice");
    },
  });
  await sweep(ports);
  expect(await stateOf(poisoned.commandId)).toBe("READY");
  for (const { commandId } of others) expect(await stateOf(commandId)).toBe("EXPIRED");
});

test("a deployment that cannot be repaired costs that deployment, not the repairs of the others", async () => {
  const { ports, stateOf } = engine;
  await db
    .updateTable("clusters")
    .set({ policy: JSON.stringify({ driftRepair: "REPAIR" }) })
    .execute();
  const drifted = await enqueueMany(2);
  await db.updateTable("command_states").set({ state: "SUCCEEDED", ended_at: longAgo }).execute();
  await db.updateTable("deployments").set({ drifted: true }).execute();
  const [poisoned, other] = drifted.map(({ deploymentId }) => deploymentId).toSorted() as [string, string];
  ports.owners.set("test", {
    changed: async () => undefined,
    renewed: async (_work, { deploymentId }) => {
      if (deploymentId === poisoned) throw new Error("a defect of the slice");
    },
  });
  await sweep(ports);
  const commandsOf = (deploymentId: string) =>
    db.selectFrom("commands").select("id").where("deployment_id", "=", deploymentId).orderBy("id", "desc").execute();
  expect(await commandsOf(poisoned)).toHaveLength(1);
  const [repair, ...before] = await commandsOf(other);
  expect(before).toHaveLength(1);
  expect(await stateOf(repair?.id ?? "")).toBe("READY");
});

test("an absence counts only where the agent could have come: what is due to it waits, all else goes on", async () => {
  const { ports, enqueue, claimOne, receipt, stateOf, agentId } = engine;
  const running = await enqueue();
  await claimOne();
  await receipt(running.commandId, 1);
  const [waiting, late] = [await enqueue(), await enqueue()];
  await transact(db, (work) => sessionEnded(ports, work, agentId, 1));
  await db.updateTable("sessions").set({ state: "ENDED", ended_at: longAgo }).execute();
  await db.updateTable("command_states").set({ updated_at: longAgo }).execute();
  await db.updateTable("command_states").set({ unbound_at: longAgo }).where("state", "=", "RUNNING").execute();
  await db.updateTable("commands").set({ deadline_at: longAgo }).where("id", "=", late.commandId).execute();
  const states = () => Promise.all([running, waiting, late].map(({ commandId }) => stateOf(commandId)));
  await sweep(ports, { blames: { silence: true, absence: false } });
  expect(await states()).toEqual(["RUNNING", "READY", "EXPIRED"]);
  await sweep(ports);
  expect(await states()).toEqual(["LOST", "EXPIRED", "EXPIRED"]);
});

test("the run timeout of another try counts from that try: a claim without a receipt yet is not timed out by the one before", async () => {
  const { ports, enqueue, claimOne, receipt, result, stateOf } = engine;
  const { commandId } = await enqueue();
  await claimOne();
  await receipt(commandId, 1);
  await result(commandId, 1, Outcome.FAILED, { reason: "BACKEND_UNREACHABLE", worthRetry: true });
  await db.updateTable("command_states").set({ received_at: longAgo, assigned_at: longAgo, due_at: longAgo }).execute();
  await sweep(ports);
  expect(await claimOne()).toMatchObject({ commandId, attempt: 2 });
  await sweep(ports);
  expect(await stateOf(commandId)).toBe("ASSIGNED");
});

test("while its agent is away a command's time stands still: on its return it is neither timed out nor LOST", async () => {
  const { ports, enqueue, claimOne, receipt, stateOf, agentId } = engine;
  const [running, cancelled] = [await enqueue(), await enqueue()];
  for (const _ of [running, cancelled]) await claimOne();
  for (const { commandId } of [running, cancelled]) await receipt(commandId, 1);
  await transact(db, (work) => cancel(ports, work, cancelled.commandId));
  // Connected for ten seconds, then away for an hour: longer than the run timeout and the cancel limit.
  const before = sql<Date>`now() - interval '3610 seconds'`;
  await db.updateTable("command_states").set({ received_at: before, assigned_at: before }).execute();
  await db.updateTable("command_states").set({ cancelling_at: before }).where("state", "=", "CANCELLING").execute();
  await transact(db, (work) => sessionEnded(ports, work, agentId, 1));
  await db
    .updateTable("command_states")
    .set({ unbound_at: sql<Date>`now() - interval '1 hour'` })
    .execute();
  await db.updateTable("sessions").set({ epoch: 2 }).execute();
  const journal = [running, cancelled].map(({ commandId, deploymentId }) => ({
    ...{ commandId, attempt: 1, deploymentId, generation: 1, phase: "RUNNING" },
    $typeName: "bowline.agent.v1.JournalEntry" as const,
  }));
  const decided = await transact(db, (work) =>
    reconcile(ports, work, { agentId, epoch: 2, journalWhole: true, journal }),
  );
  const actionOf = new Map(decided.map(({ commandId, action }) => [commandId, action]));
  expect(actionOf.get(running.commandId)).toBe(SyncDecision_Action.CONTINUE);
  expect(actionOf.get(cancelled.commandId)).toBe(SyncDecision_Action.CANCEL);
  await sweep(ports);
  expect([await stateOf(running.commandId), await stateOf(cancelled.commandId)]).toEqual(["RUNNING", "CANCELLING"]);
  const { rows } = await sql<{ running: number }>`
    SELECT extract(epoch FROM now() - received_at)::float8 AS running FROM command_states WHERE command_id = ${running.commandId}`.execute(
    db,
  );
  expect(rows[0]?.running).toBeGreaterThan(9); // what it had run before counts on
  expect(rows[0]?.running).toBeLessThan(60);
});
