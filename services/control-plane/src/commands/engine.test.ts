/** The engine's statements against a real PostgreSQL: one agent's rows, no network. */
import { create } from "@bufbuild/protobuf";
import { beforeAll, beforeEach, expect, test } from "@jest/globals";
import {
  DeployResult_Outcome,
  DeployResultSchema,
  ResultAck_Disposition,
  SyncDecision_Action,
} from "@bowline/contract/agent";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { newId } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { type Db, transact } from "../platform/transactions.ts";
import { epoch, startEngine, type TestEngine } from "./engine.fixture.ts";
import { agentGone, claim, reconcile, recordReports, sessionEnded, sweep, unreceipted } from "./index.ts";
import { cancel, retry } from "./requests.ts";

let db: Db;
let ports: TestEngine["ports"];
let heard: TestEngine["heard"];
let agentId: string;
let enqueue: TestEngine["enqueue"];
let claimOne: TestEngine["claimOne"];
let stateOf: TestEngine["stateOf"];
let receipt: TestEngine["receipt"];
let result: TestEngine["result"];

beforeAll(async () => {
  ({ db } = await testDatabase());
});

beforeEach(async () => {
  ({ ports, heard, agentId, enqueue, claimOne, stateOf, receipt, result } = await startEngine(db));
});

test("a command goes from READY to SUCCEEDED, and its deployment is observed at that generation", async () => {
  const { commandId, deploymentId } = await enqueue();
  expect(await stateOf(commandId)).toBe("READY");
  const pushed = await claimOne();
  expect(pushed).toMatchObject({ commandId, attempt: 1, generation: 1 });
  await receipt(commandId, 1);
  expect(await stateOf(commandId)).toBe("RUNNING");
  expect(await result(commandId, 1, DeployResult_Outcome.SUCCEEDED)).toBe(ResultAck_Disposition.RECORDED);
  expect(await stateOf(commandId)).toBe("SUCCEEDED");
  const deployment = await db
    .selectFrom("deployments")
    .selectAll()
    .where("id", "=", deploymentId)
    .executeTakeFirstOrThrow();
  expect(deployment.observed_generation).toBe(1);
  expect(heard.map((command) => command.state)).toEqual(["ASSIGNED", "RUNNING", "SUCCEEDED"]);
});

test("a result that comes twice is recorded once", async () => {
  const { commandId } = await enqueue();
  await claimOne();
  await result(commandId, 1, DeployResult_Outcome.SUCCEEDED);
  expect(await result(commandId, 1, DeployResult_Outcome.SUCCEEDED)).toBe(ResultAck_Disposition.ALREADY_RECORDED);
  expect(await result(commandId, 1, DeployResult_Outcome.FAILED)).toBe(ResultAck_Disposition.ALREADY_RECORDED);
  expect(await stateOf(commandId)).toBe("SUCCEEDED");
});

test("a result of another epoch is answered RESEND, of another attempt OBSOLETE, of an unknown command UNKNOWN; none changes anything", async () => {
  const { commandId } = await enqueue();
  await claimOne();
  expect(await result(commandId, 1, DeployResult_Outcome.SUCCEEDED, { epoch: 2 })).toBe(ResultAck_Disposition.RESEND);
  expect(await result(commandId, 7, DeployResult_Outcome.SUCCEEDED)).toBe(ResultAck_Disposition.OBSOLETE);
  expect(await result(newId("command"), 1, DeployResult_Outcome.SUCCEEDED)).toBe(ResultAck_Disposition.UNKNOWN);
  expect(await stateOf(commandId)).toBe("ASSIGNED");
});

test("another agent's command is as if unknown", async () => {
  const { commandId } = await enqueue();
  await claimOne();
  const answers = await recordReports(ports, [
    {
      agentId: newId("agent"),
      epoch,
      message: create(DeployResultSchema, { commandId, attempt: 1, outcome: DeployResult_Outcome.SUCCEEDED }),
    },
  ]);
  expect(answers.map((answer) => answer?.disposition)).toEqual([ResultAck_Disposition.UNKNOWN]);
  expect(await stateOf(commandId)).toBe("ASSIGNED");
});

test("a newer wish supersedes what waits, and waits behind what is in flight", async () => {
  const first = await enqueue();
  const second = await enqueue(first.deploymentId);
  expect(await stateOf(first.commandId)).toBe("SUPERSEDED");
  await claimOne();
  const third = await enqueue(first.deploymentId);
  const fourth = await enqueue(first.deploymentId);
  expect(await stateOf(second.commandId)).toBe("ASSIGNED");
  expect(await stateOf(third.commandId)).toBe("SUPERSEDED");
  expect(await stateOf(fourth.commandId)).toBe("BLOCKED");
  await result(second.commandId, 1, DeployResult_Outcome.FAILED, { reason: "X", worthRetry: true });
  expect(await stateOf(second.commandId)).toBe("FAILED"); // no retry while a newer one waits
  expect(await stateOf(fourth.commandId)).toBe("READY");
});

test("a stop ends what is in flight and follows it", async () => {
  const first = await enqueue();
  await claimOne();
  await receipt(first.commandId, 1);
  const stop = await enqueue(first.deploymentId, Deployment_Desired.STOPPED);
  expect(await stateOf(first.commandId)).toBe("CANCELLING");
  expect(await stateOf(stop.commandId)).toBe("BLOCKED");
  await result(first.commandId, 1, DeployResult_Outcome.CANCELLED);
  expect(await stateOf(first.commandId)).toBe("CANCELLED");
  expect(await stateOf(stop.commandId)).toBe("READY");
});

test("a failure worth a retry waits and is READY again when due; the last one is FAILED", async () => {
  const { commandId, deploymentId } = await enqueue(undefined, Deployment_Desired.RUNNING, { maxRetries: 1 });
  await claimOne();
  await result(commandId, 1, DeployResult_Outcome.FAILED, { reason: "BACKEND_UNREACHABLE", worthRetry: true });
  expect(await stateOf(commandId)).toBe("RETRY_WAIT");
  await db
    .updateTable("command_states")
    .set({ due_at: sql<Date>`now() - interval '1 second'` })
    .where("command_id", "=", commandId)
    .execute();
  await sweep(ports);
  expect(await stateOf(commandId)).toBe("READY");
  expect(await claimOne()).toMatchObject({ attempt: 2 });
  await result(commandId, 2, DeployResult_Outcome.FAILED, { reason: "BACKEND_UNREACHABLE", worthRetry: true });
  expect(await stateOf(commandId)).toBe("FAILED");
  const row = await db
    .selectFrom("deployments")
    .select("held_reason")
    .where("id", "=", deploymentId)
    .executeTakeFirstOrThrow();
  expect(row.held_reason).toBe("BACKEND_UNREACHABLE");
});

test("a window is kept, with one more place for removals", async () => {
  const running = [await enqueue(), await enqueue()];
  const removal = await enqueue((await enqueue()).deploymentId, Deployment_Desired.ABSENT);
  const claimed = await transact(db, (work) => claim(ports, work, [{ agentId, epoch, window: 1 }]));
  expect(claimed.map((command) => command.commandId)).toEqual([removal.commandId]); // removals go first
  const more = await transact(db, (work) => claim(ports, work, [{ agentId, epoch, window: 1 }]));
  expect(more).toEqual([]);
  const wider = await transact(db, (work) => claim(ports, work, [{ agentId, epoch, window: 3 }]));
  expect(wider.map((command) => command.commandId)).toEqual(running.map((command) => command.commandId));
});

test("who takes only removals and stops gets them beside what is in flight, and nothing else", async () => {
  await enqueue();
  await claimOne();
  const removal = await enqueue((await enqueue()).deploymentId, Deployment_Desired.ABSENT);
  await enqueue();
  const only = [{ agentId, epoch, window: 16, onlyReducing: true }];
  const claimed = await transact(db, (work) => claim(ports, work, only));
  expect(claimed.map((command) => command.commandId)).toEqual([removal.commandId]);
  expect(await transact(db, (work) => claim(ports, work, only))).toEqual([]);
});

test("a session that is not SERVING, or of another epoch, claims nothing", async () => {
  await enqueue();
  expect(await transact(db, (work) => claim(ports, work, [{ agentId, epoch: 2, window: 5 }]))).toEqual([]);
  await db.updateTable("sessions").set({ state: "SYNCING" }).where("agent_id", "=", agentId).execute();
  expect(await claimOne()).toBeUndefined();
});

test("the end of a session unbinds and burns nothing; the agent that has the command goes on with it", async () => {
  const { commandId } = await enqueue();
  await claimOne();
  await receipt(commandId, 1);
  await transact(db, (work) => sessionEnded(ports, work, agentId, epoch));
  await db.updateTable("sessions").set({ epoch: 2 }).where("agent_id", "=", agentId).execute();
  const journal = [
    {
      commandId,
      attempt: 1,
      deploymentId: "",
      generation: 1,
      phase: "RUNNING",
      $typeName: "bowline.agent.v1.JournalEntry" as const,
    },
  ];
  const decided = await transact(db, (work) =>
    reconcile(ports, work, { agentId, epoch: 2, journalWhole: true, journal }),
  );
  expect(decided).toEqual([{ commandId, attempt: 1, action: SyncDecision_Action.CONTINUE }]);
  expect(await result(commandId, 1, DeployResult_Outcome.SUCCEEDED, { epoch: 2 })).toBe(ResultAck_Disposition.RECORDED);
});

test("a journal that lacks a received command makes it READY again; an unknown command is answered HOLD", async () => {
  const { commandId } = await enqueue();
  await claimOne();
  await receipt(commandId, 1);
  await transact(db, (work) => sessionEnded(ports, work, agentId, epoch));
  const unknown = newId("command");
  const journal = [
    {
      commandId: unknown,
      attempt: 1,
      deploymentId: "",
      generation: 1,
      phase: "RUNNING",
      $typeName: "bowline.agent.v1.JournalEntry" as const,
    },
  ];
  const decided = await transact(db, (work) =>
    reconcile(ports, work, { agentId, epoch: 2, journalWhole: false, journal }),
  );
  expect(decided).toEqual([{ commandId: unknown, attempt: 1, action: SyncDecision_Action.HOLD }]);
  expect(await stateOf(commandId)).toBe("READY");
});

test("a result of an earlier try that was not acknowledged hides nothing of the try that is in flight: it is bound and pushed again", async () => {
  const { commandId } = await enqueue();
  await claimOne();
  await receipt(commandId, 1);
  await result(commandId, 1, DeployResult_Outcome.FAILED, { reason: "X", worthRetry: true });
  await db
    .updateTable("command_states")
    .set({ due_at: sql<Date>`now() - interval '1 second'` })
    .where("command_id", "=", commandId)
    .execute();
  await sweep(ports);
  expect(await claimOne()).toMatchObject({ attempt: 2 });
  await transact(db, (work) => sessionEnded(ports, work, agentId, epoch));
  const journal = [
    {
      commandId,
      attempt: 1,
      deploymentId: "",
      generation: 1,
      phase: "RUNNING",
      $typeName: "bowline.agent.v1.JournalEntry" as const,
    },
  ];
  const decided = await transact(db, (work) =>
    reconcile(ports, work, { agentId, epoch: 2, journalWhole: true, journal }),
  );
  expect(decided).toEqual([{ commandId, attempt: 1, action: SyncDecision_Action.CANCEL }]);
  expect((await unreceipted(ports, agentId, 2)).map((command) => command.attempt)).toEqual([2]);
});

test("cancelling what waits ends it at once; what runs is asked; a removal is refused; what has ended says so", async () => {
  const waiting = await enqueue();
  await transact(db, (work) => cancel(ports, work, waiting.commandId));
  expect(await stateOf(waiting.commandId)).toBe("CANCELLED");
  await expect(transact(db, (work) => cancel(ports, work, waiting.commandId))).rejects.toMatchObject({
    reason: "COMMAND_ENDED",
  });
  const removal = await enqueue(waiting.deploymentId, Deployment_Desired.ABSENT);
  await expect(transact(db, (work) => cancel(ports, work, removal.commandId))).rejects.toMatchObject({
    reason: "REMOVAL_NOT_CANCELLABLE",
  });
  await expect(enqueue(waiting.deploymentId)).rejects.toMatchObject({ reason: "DEPLOYMENT_ABSENT" });
});

test("a retry makes a new command for the current generation only", async () => {
  const first = await enqueue(undefined, Deployment_Desired.RUNNING, { maxRetries: 0 });
  await expect(transact(db, (work) => retry(ports, work, first.commandId, "me"))).rejects.toMatchObject({
    reason: "COMMAND_OPEN",
  });
  await claimOne();
  await result(first.commandId, 1, DeployResult_Outcome.FAILED, { reason: "X" });
  const again = await transact(db, (work) => retry(ports, work, first.commandId, "me"));
  expect(await stateOf(again.commandId)).toBe("READY");
  await claimOne();
  await result(again.commandId, 1, DeployResult_Outcome.FAILED, { reason: "X" });
  await expect(transact(db, (work) => retry(ports, work, first.commandId, "me"))).rejects.toMatchObject({
    reason: "NEWER_GENERATION",
  });
});

test("a run timeout asks for the end, and an agent that does not answer leaves the command LOST and its deployment HELD", async () => {
  const { commandId, deploymentId } = await enqueue();
  await claimOne();
  await receipt(commandId, 1);
  await db
    .updateTable("command_states")
    .set({ received_at: sql<Date>`now() - interval '1 hour'` })
    .where("command_id", "=", commandId)
    .execute();
  await sweep(ports);
  expect(await stateOf(commandId)).toBe("CANCELLING");
  await db
    .updateTable("command_states")
    .set({ cancelling_at: sql<Date>`now() - interval '1 hour'` })
    .where("command_id", "=", commandId)
    .execute();
  await sweep(ports);
  expect(await stateOf(commandId)).toBe("LOST");
  const deployment = await db
    .selectFrom("deployments")
    .select("held_reason")
    .where("id", "=", deploymentId)
    .executeTakeFirstOrThrow();
  expect(deployment.held_reason).not.toBe("");
  expect(await result(commandId, 1, DeployResult_Outcome.SUCCEEDED)).toBe(ResultAck_Disposition.ALREADY_RECORDED);
  const row = await db
    .selectFrom("command_states")
    .select("late_outcome")
    .where("command_id", "=", commandId)
    .executeTakeFirstOrThrow();
  expect(row.late_outcome).toBe("SUCCEEDED");
});

test("a deadline passes: EXPIRED where no agent ever received it, FAILED where one did; a removal stays", async () => {
  const never = await enqueue(undefined, Deployment_Desired.RUNNING, { deadlineMs: 1 });
  await sql`SELECT pg_sleep(0.01)`.execute(db);
  await sweep(ports);
  expect(await stateOf(never.commandId)).toBe("EXPIRED");
  const removal = await enqueue(undefined, Deployment_Desired.ABSENT, { deadlineMs: 1 });
  await sql`SELECT pg_sleep(0.01)`.execute(db);
  await sweep(ports);
  expect(await stateOf(removal.commandId)).toBe("READY");
});

test("a revoked agent settles what it owes, except removals; a retired one those too", async () => {
  const waiting = await enqueue();
  const removal = await enqueue((await enqueue()).deploymentId, Deployment_Desired.ABSENT);
  await transact(db, (work) => agentGone(ports, work, agentId, { retired: false }));
  expect(await stateOf(waiting.commandId)).toBe("CANCELLED");
  expect(await stateOf(removal.commandId)).toBe("READY");
  await transact(db, (work) => agentGone(ports, work, agentId, { retired: true }));
  expect(await stateOf(removal.commandId)).toBe("CANCELLED");
});

test("a removal that waits behind what a revoked agent has is READY then, not left behind it", async () => {
  const first = await enqueue();
  await claimOne();
  const removal = await enqueue(first.deploymentId, Deployment_Desired.ABSENT);
  expect(await stateOf(removal.commandId)).toBe("BLOCKED");
  await transact(db, (work) => agentGone(ports, work, agentId, { retired: false }));
  expect(await stateOf(first.commandId)).toBe("LOST");
  expect(await stateOf(removal.commandId)).toBe("READY");
});
