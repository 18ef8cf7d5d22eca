/** E3: what was seen without a lock is looked at again under it. Each test changes what was seen between the two. */
import { beforeEach, expect, test } from "@jest/globals";
import { DeployResult_Outcome as Outcome } from "@bowline/contract/agent";
import { testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { lockDeployments } from "../deployments/index.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { startEngine, type TestEngine } from "./engine.fixture.ts";
import { countMissingReceipts, sweep } from "./index.ts";

let db: Db;
let engine: TestEngine;
beforeEach(async () => {
  ({ db } = await testDatabase());
  engine = await startEngine(db);
});

const longAgo = sql<Date>`now() - interval '3 days'`;

/** Runs `look`, and `change` between its look at this deployment's command and its lock on it. */
async function between<T>(deploymentId: string, look: () => Promise<T>, change: object): Promise<T> {
  let looking: Promise<T> | undefined;
  await transact(db, async ({ tx }) => {
    await lockDeployments(tx, [deploymentId]);
    looking ??= look();
    await until(async () => {
      const { rows } = await sql`SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%"deployments"%'`.execute(db);
      return rows.length > 0;
    });
    await tx.updateTable("command_states").set(change).where("deployment_id", "=", deploymentId).execute();
  });
  if (looking === undefined) throw new Error("nothing was looked at");
  return looking;
}

async function assigned() {
  const { commandId, deploymentId } = await engine.enqueue();
  await engine.claimOne();
  await db.updateTable("command_states").set({ assigned_at: longAgo }).execute();
  return { commandId, deploymentId };
}

const rowOf = (commandId: string) =>
  db.selectFrom("command_states").selectAll().where("command_id", "=", commandId).executeTakeFirstOrThrow();

test("a command whose agent came back at the last moment is not LOST", async () => {
  const { commandId, deploymentId } = await assigned();
  await db.updateTable("command_states").set({ bound_epoch: null, unbound_at: longAgo, state: "RUNNING" }).execute();
  expect(await between(deploymentId, () => sweep(engine.ports), { bound_epoch: 2, unbound_at: null })).toBe(0);
  expect(await rowOf(commandId)).toMatchObject({ state: "RUNNING", bound_epoch: 2 });
});

test("the run timeout of one try does not end the next one", async () => {
  const { commandId, deploymentId } = await assigned();
  const next = { attempt: 2, assigned_at: sql<Date>`now()` };
  expect(await between(deploymentId, () => sweep(engine.ports), next)).toBe(0);
  expect(await rowOf(commandId)).toMatchObject({ state: "ASSIGNED", cancel_reason: null });
});

test("a retry that failed once more meanwhile waits as long as it then has to", async () => {
  const { commandId, deploymentId } = await assigned();
  await engine.result(commandId, 1, Outcome.FAILED, { reason: "BACKEND_UNREACHABLE", worthRetry: true });
  await db.updateTable("command_states").set({ due_at: longAgo }).execute();
  const later = { failures: 2, due_at: sql<Date>`now() + interval '1 hour'` };
  expect(await between(deploymentId, () => sweep(engine.ports), later)).toBe(0);
  expect(await engine.stateOf(commandId)).toBe("RETRY_WAIT");
});

test("a receipt that is missing in one session does not count against the next", async () => {
  const { commandId, deploymentId } = await assigned();
  await between(deploymentId, () => countMissingReceipts(engine.ports, engine.agentId, 1), { bound_epoch: 2 });
  expect((await rowOf(commandId)).sessions_without_receipt).toBe(0);
});

test("a receipt that is missing of one try does not count against the next", async () => {
  const { commandId, deploymentId } = await assigned();
  await between(deploymentId, () => countMissingReceipts(engine.ports, engine.agentId, 1), { attempt: 2 });
  expect((await rowOf(commandId)).sessions_without_receipt).toBe(0);
});
