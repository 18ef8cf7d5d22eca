/** What many agents say at once: sets of reports against a real PostgreSQL. */
import { create } from "@bufbuild/protobuf";
import { beforeAll, expect, test } from "@jest/globals";
import {
  CommandReceipt_Disposition,
  CommandReceiptSchema,
  DeployResult_Outcome,
  DeploymentStateSchema,
  DeployResultSchema,
  ResultAck_Disposition,
} from "@bowline/contract/agent";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { testDatabase } from "@bowline/testing";
import { type KyselyPlugin, sql } from "kysely";
import { type Db, transact } from "../platform/transactions.ts";
import { epoch, startEngine, type TestEngine } from "./engine.fixture.ts";
import { agentGone, claim, converge, recordReports, recordStates } from "./index.ts";
import { cancel } from "./requests.ts";

let db: Db;

beforeAll(async () => {
  ({ db } = await testDatabase());
});

const { SUCCEEDED, FAILED } = DeployResult_Outcome;

function saying(engine: TestEngine, commandId: string, outcome: DeployResult_Outcome, more = {}) {
  const message = create(DeployResultSchema, { commandId, attempt: 1, outcome, ...more });
  return { agentId: engine.agentId, epoch, message };
}

async function enqueueMany(engine: TestEngine, count: number): Promise<{ commandId: string; deploymentId: string }[]> {
  const wishes = Array.from({ length: count }, () => engine.wish());
  return transact(db, (work) => converge(engine.ports, work, wishes));
}

const claimAll = (engine: TestEngine) =>
  transact(db, (work) => claim(engine.ports, work, [{ agentId: engine.agentId, epoch, window: 1_000 }]));

test("what is claimed at once is told the most urgent first, however its rows are read", async () => {
  const engine = await startEngine(db);
  const urgent = (await enqueueMany(engine, 5)).map(({ commandId }) => commandId).toReversed();
  for (const [priority, id] of urgent.entries())
    await db.updateTable("command_states").set({ priority }).where("command_id", "=", id).execute();
  const claimed = await transact(db, async (work) => {
    // So that PostgreSQL reads them by id, as it may choose to.
    for (const way of ["nestloop", "hashjoin"]) await sql`SET LOCAL ${sql.raw(`enable_${way}`)} = off`.execute(work.tx);
    return claim(engine.ports, work, [{ agentId: engine.agentId, epoch, window: 1_000 }]);
  });
  expect(claimed.map(({ commandId }) => commandId)).toEqual(urgent);
});

test("of one set each result ends its own command, and what waits behind each is promoted", async () => {
  const engine = await startEngine(db);
  const first = await enqueueMany(engine, 4);
  await claimAll(engine);
  const next = await Promise.all(first.map(({ deploymentId }) => engine.enqueue(deploymentId)));
  const [one, two, three, four] = first.map(({ commandId }) => commandId) as [string, string, string, string];
  const unclear = { reason: "GATE_INCONCLUSIVE", message: "gate smoke: no answer in time" };
  const answers = await recordReports(engine.ports, [
    saying(engine, one, SUCCEEDED),
    saying(engine, two, FAILED, { reason: "NO_SPACE", message: "The disk is full." }),
    saying(engine, three, FAILED, { reason: "CRASHED", worthRetry: true }),
    saying(engine, four, SUCCEEDED, unclear),
  ]);
  expect(answers.map((answer) => answer?.disposition)).toEqual(Array(4).fill(ResultAck_Disposition.RECORDED));
  const ended = async (commandId: string) =>
    db
      .selectFrom("command_states")
      .select(["state", "reason", "message", "outcome_attempt"])
      .where("command_id", "=", commandId)
      .where("ended_at", "is not", null)
      .executeTakeFirst();
  expect(await ended(one)).toEqual({ state: "SUCCEEDED", reason: "", message: "", outcome_attempt: 1 });
  expect(await ended(four)).toMatchObject({ state: "SUCCEEDED", ...unclear });
  expect(await ended(two)).toMatchObject({ state: "FAILED", reason: "NO_SPACE", message: "The disk is full." });
  expect(await ended(three)).toMatchObject({ state: "FAILED", reason: "CRASHED" }); // a newer one waits: no retry
  for (const { commandId } of next) expect(await engine.stateOf(commandId)).toBe("READY");
  const observed = await Promise.all(
    first.map(({ deploymentId }) =>
      db
        .selectFrom("deployments")
        .select("observed_generation")
        .where("id", "=", deploymentId)
        .executeTakeFirstOrThrow(),
    ),
  );
  expect(observed.map((row) => row.observed_generation)).toEqual([1, 0, 0, 1]);
});

test("a result that is said twice in one set is recorded once", async () => {
  const engine = await startEngine(db);
  const { commandId } = await engine.enqueue();
  await engine.claimOne();
  const answers = await recordReports(engine.ports, [
    saying(engine, commandId, SUCCEEDED),
    saying(engine, commandId, FAILED),
  ]);
  expect(answers.map((answer) => answer?.disposition)).toEqual([
    ResultAck_Disposition.RECORDED,
    ResultAck_Disposition.ALREADY_RECORDED,
  ]);
  expect(await engine.stateOf(commandId)).toBe("SUCCEEDED");
  expect(engine.heard.map(({ state }) => state)).toEqual(["ASSIGNED", "SUCCEEDED"]);
});

test("a receipt that is said twice in one set counts as one, from its first word on", async () => {
  const engine = await startEngine(db);
  const { commandId } = await engine.enqueue();
  await engine.claimOne();
  const said = (disposition: CommandReceipt_Disposition) => ({
    ...{ agentId: engine.agentId, epoch },
    message: create(CommandReceiptSchema, { commandId, attempt: 1, disposition }),
  });
  await recordReports(engine.ports, [
    said(CommandReceipt_Disposition.ACCEPTED),
    said(CommandReceipt_Disposition.DUPLICATE),
  ]);
  const row = await db
    .selectFrom("command_states")
    .select(["state", "received_at", "bound_epoch"])
    .where("command_id", "=", commandId)
    .executeTakeFirstOrThrow();
  expect(row).toMatchObject({ state: "RUNNING", bound_epoch: epoch });
  expect(row.received_at).not.toBeNull();
});

test("when an agent is revoked, a removal that waits behind what it runs becomes READY for whoever replaces it", async () => {
  const engine = await startEngine(db);
  const { commandId: running, deploymentId } = await engine.enqueue();
  await engine.claimOne();
  await engine.receipt(running, 1);
  const { commandId: removal } = await engine.enqueue(deploymentId, Deployment_Desired.ABSENT);
  await transact(db, (work) => agentGone(engine.ports, work, engine.agentId, { retired: false }));
  expect(await engine.stateOf(running)).toBe("LOST");
  expect(await engine.stateOf(removal)).toBe("READY");
});

test("a set of a hundred takes no more statements than one of two", async () => {
  const counted = async (size: number): Promise<{ receipts: number; results: number }> => {
    const engine = await startEngine(db);
    const commands = await enqueueMany(engine, size);
    await claimAll(engine);
    await transact(db, (work) =>
      converge(
        engine.ports,
        work,
        commands.map(({ deploymentId }) => engine.wish(deploymentId)),
      ),
    );
    let statements = 0;
    const counts: KyselyPlugin = {
      transformQuery: ({ node }) => {
        statements += 1;
        return node;
      },
      transformResult: async ({ result }) => result,
    };
    const ports = { ...engine.ports, db: db.withPlugin(counts) };
    const disposition = CommandReceipt_Disposition.ACCEPTED;
    await recordReports(
      ports,
      commands.map(({ commandId }) => ({
        ...{ agentId: engine.agentId, epoch },
        message: create(CommandReceiptSchema, { commandId, attempt: 1, disposition }),
      })),
    );
    const receipts = statements;
    await recordReports(
      ports,
      commands.map(({ commandId }) => saying(engine, commandId, SUCCEEDED)),
    );
    return { receipts, results: statements - receipts };
  };
  const few = await counted(2);
  expect(few.receipts).toBeGreaterThan(0);
  expect(await counted(100)).toEqual(few);
});

test("an agent that ends a command because it was asked to need not say why: the asking is why, and the deployment is HELD", async () => {
  const engine = await startEngine(db);
  const { commandId, deploymentId } = await engine.enqueue();
  await engine.claimOne();
  await transact(db, (work) => cancel(engine.ports, work, commandId));
  await engine.result(commandId, 1, DeployResult_Outcome.CANCELLED);
  const row = await db
    .selectFrom("command_states as s")
    .innerJoin("deployments as d", "d.id", "s.deployment_id")
    .select(["s.state", "s.reason", "d.held_reason"])
    .where("d.id", "=", deploymentId)
    .executeTakeFirstOrThrow();
  expect(row).toEqual({ state: "CANCELLED", reason: "CANCEL_REQUESTED", held_reason: "CANCEL_REQUESTED" });
});

test("a failure without a reason holds its deployment as well", async () => {
  const engine = await startEngine(db);
  const { commandId, deploymentId } = await engine.enqueue();
  await engine.claimOne();
  await engine.result(commandId, 1, FAILED);
  const { held_reason } = await db
    .selectFrom("deployments")
    .select("held_reason")
    .where("id", "=", deploymentId)
    .executeTakeFirstOrThrow();
  expect(held_reason).toBe("FAILED");
});

test("what an agent says of a LOST command is kept only from its present session; an older one says it again there", async () => {
  const engine = await startEngine(db);
  const { commandId, deploymentId } = await engine.enqueue();
  await engine.claimOne();
  await transact(db, (work) => agentGone(engine.ports, work, engine.agentId, { retired: false }));
  await db.updateTable("sessions").set({ epoch: 2 }).where("agent_id", "=", engine.agentId).execute();
  const known = async () => {
    const row = await db
      .selectFrom("command_states as s")
      .innerJoin("deployments as d", "d.id", "s.deployment_id")
      .select(["s.state", "s.late_outcome", "d.observed_generation"])
      .where("d.id", "=", deploymentId)
      .executeTakeFirstOrThrow();
    return Object.values(row);
  };
  expect(await engine.result(commandId, 1, SUCCEEDED)).toBe(ResultAck_Disposition.RESEND);
  expect(await known()).toEqual(["LOST", "", 0]);
  expect(await engine.result(commandId, 1, SUCCEEDED, { epoch: 2 })).toBe(ResultAck_Disposition.ALREADY_RECORDED);
  expect(await known()).toEqual(["LOST", "SUCCEEDED", 1]);
});

test("an observation that is said again is no second one: it makes no drift", async () => {
  const engine = await startEngine(db);
  const { commandId, deploymentId } = await engine.enqueue();
  await engine.claimOne();
  await engine.result(commandId, 1, SUCCEEDED);
  const instances = [{ workload: "w", index: 0, phase: "EXITED", exitCode: 1 }];
  const state = create(DeploymentStateSchema, { deploymentId, generation: 1, instances });
  const observe = (observation: number) =>
    recordStates(engine.ports, { agentId: engine.agentId, epoch }, observation, [state]);
  const drift = async () =>
    (
      await db
        .selectFrom("deployments")
        .select(["drift_observations", "drifted"])
        .where("id", "=", deploymentId)
        .execute()
    )[0];
  await observe(5);
  for (const again of [5, 4]) await observe(again);
  expect(await drift()).toEqual({ drift_observations: 1, drifted: false });
  await observe(6);
  expect(await drift()).toEqual({ drift_observations: 2, drifted: true });
});
