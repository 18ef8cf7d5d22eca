/** Ended commands leave the tables that are read every second, and stay what they were. */
import { beforeEach, expect, test } from "@jest/globals";
import { create } from "@bufbuild/protobuf";
import {
  DeployResult_Outcome as Outcome,
  ResultAck_Disposition as Ack,
  SyncDecision_Action,
} from "@bowline/contract/agent";
import { Command_State as State, ListCommandsRequestSchema } from "@bowline/contract/commands";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { systemPrincipal } from "../platform/context.ts";
import { createHistory } from "../platform/history.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { startEngine, type TestEngine } from "./engine.fixture.ts";
import { deletesSpecs, movesEnded, readCommands, reconcile } from "./index.ts";
import { listCommands } from "./queries.ts";
import { cancel, retry } from "./requests.ts";

const dayMs = 86_400_000;
let db: Db;
let engine: TestEngine;
beforeEach(async () => {
  ({ db } = await testDatabase());
  engine = await startEngine(db);
});

/** Ends a command of a deployment and moves its end back. */
async function ended(deploymentId: string | undefined, agoHours: number, outcome: Outcome = Outcome.SUCCEEDED) {
  const enqueued = await engine.enqueue(deploymentId);
  await engine.claimOne();
  await engine.receipt(enqueued.commandId, 1);
  await engine.result(enqueued.commandId, 1, outcome, { reason: outcome === Outcome.FAILED ? "BROKEN" : "" });
  await db
    .updateTable("command_states")
    .set({ ended_at: sql<Date>`now() - make_interval(hours => ${agoHours})` })
    .where("command_id", "=", enqueued.commandId)
    .execute();
  return enqueued;
}

const turn = () => {
  const commandsMs = 30 * dayMs;
  const settings = { everyMs: 1_000, eventsMs: dayMs, commandsMs, auditMs: dayMs };
  const steps = [movesEnded(commandsMs), deletesSpecs(commandsMs)];
  return createHistory({ db, steps, settings, log: engine.ports.log }).turn();
};

async function places(commandId: string): Promise<string> {
  const { rows } = await sql<{ hot: boolean; left: boolean }>`
    SELECT EXISTS (SELECT 1 FROM commands WHERE id = ${commandId}) AS hot,
      EXISTS (SELECT 1 FROM ended_commands WHERE id = ${commandId}) AS left`.execute(db);
  return [rows[0]?.hot === true ? ["newest"] : [], rows[0]?.left === true ? ["left"] : []].flat().join() || "gone";
}

test("what has ended and was replaced leaves after an hour, and goes with its retention; the newest of a deployment stays", async () => {
  const ancient = await ended(undefined, 31 * 24);
  const { deploymentId } = ancient;
  const old = await ended(deploymentId, 25);
  const recent = await ended(deploymentId, 0);
  const newest = await ended(deploymentId, 24 * 90);
  await turn();
  expect(await places(ancient.commandId)).toBe("gone");
  expect(await places(old.commandId)).toBe("left");
  expect(await places(recent.commandId)).toBe("newest");
  expect(await places(newest.commandId)).toBe("newest");
  const { rows } = await sql<{ rows: number }>`
    SELECT (SELECT count(*) FROM command_states) + (SELECT count(*) FROM command_progress) AS rows`.execute(db);
  expect(rows).toEqual([{ rows: 2 }]);
});

test("what is open never leaves, however old; the last word on a deployment that is gone does", async () => {
  const { deploymentId } = await ended(undefined, 48);
  const removal = await engine.enqueue(deploymentId, Deployment_Desired.ABSENT);
  await db
    .updateTable("commands")
    .set({ created_at: sql<Date>`now() - interval '1 year'` })
    .execute();
  await turn();
  expect(await places(removal.commandId)).toBe("newest");
  await engine.claimOne();
  await engine.result(removal.commandId, 1, Outcome.SUCCEEDED);
  await db
    .updateTable("command_states")
    .set({ ended_at: sql<Date>`now() - interval '2 hours'` })
    .execute();
  await turn();
  expect(await places(removal.commandId)).toBe("left");
});

test("an agent that repeats itself about a command that left is answered as before", async () => {
  const { commandId, deploymentId } = await ended(undefined, 5);
  await ended(deploymentId, 0);
  await turn();
  expect(await engine.result(commandId, 1, Outcome.SUCCEEDED)).toBe(Ack.ALREADY_RECORDED);
  expect(await engine.result(commandId, 2, Outcome.SUCCEEDED)).toBe(Ack.OBSOLETE);
  await engine.receipt(commandId, 1);
  const entry = { ...{ commandId, attempt: 1, deploymentId, generation: 1, phase: "RUNNING" } };
  const journal = [{ ...entry, $typeName: "bowline.agent.v1.JournalEntry" as const }];
  const facts = { agentId: engine.agentId, epoch: 1, journalWhole: true, journal };
  const decided = await transact(db, (work) => reconcile(engine.ports, work, facts));
  expect(decided).toEqual([{ commandId, attempt: 1, action: SyncDecision_Action.CANCEL }]);
  expect(await places(commandId)).toBe("left");
});

test("a late outcome of a command that was LOST and left is kept with it", async () => {
  const { commandId, deploymentId } = await ended(undefined, 5);
  await db.updateTable("command_states").set({ state: "LOST" }).where("command_id", "=", commandId).execute();
  await ended(deploymentId, 0);
  await turn();
  expect(await engine.result(commandId, 1, Outcome.SUCCEEDED)).toBe(Ack.ALREADY_RECORDED);
  const [shown] = await readCommands(engine.ports, systemPrincipal, { ids: [commandId] });
  expect(shown?.lateOutcome).toBe("SUCCEEDED");
});

test("people find it as before: by id, in pages, counted, filtered; it can neither be cancelled nor tried again", async () => {
  const commands = [await ended(undefined, 50, Outcome.FAILED)];
  const [{ deploymentId } = { deploymentId: "" }] = commands;
  for (const hours of [40, 30, 0]) commands.push(await ended(deploymentId, hours));
  const before = await readCommands(engine.ports, systemPrincipal, { deploymentId });
  await turn();
  expect(await readCommands(engine.ports, systemPrincipal, { deploymentId })).toEqual(before);
  const [first] = commands;
  expect(await readCommands(engine.ports, systemPrincipal, { ids: [first?.commandId ?? ""] })).toMatchObject([
    { state: State.FAILED, reason: "BROKEN", attempt: 1, agent: "one" },
  ]);
  const ids: string[] = [];
  for (let pageToken = "", pages = 0; pages === 0 || pageToken !== ""; pages += 1) {
    const request = create(ListCommandsRequestSchema, {
      pageSize: 3,
      pageToken,
      returnTotalSize: true,
      agentId: "one",
    });
    const page = await listCommands(engine.ports, systemPrincipal, request);
    expect(page.totalSize).toBe(4);
    ids.push(...page.commands.map(({ id }) => id));
    pageToken = page.nextPageToken;
  }
  expect(ids).toEqual(commands.map(({ commandId }) => commandId).toReversed());
  const failed = await listCommands(
    engine.ports,
    systemPrincipal,
    create(ListCommandsRequestSchema, { states: [State.FAILED] }),
  );
  expect(failed.commands.map(({ id }) => id)).toEqual([first?.commandId]);
  const asked = async (request: (id: string) => Promise<unknown>) => request(first?.commandId ?? "");
  await expect(asked((id) => transact(db, (work) => cancel(engine.ports, work, id)))).rejects.toMatchObject({
    reason: "COMMAND_ENDED",
  });
  await expect(asked((id) => transact(db, (work) => retry(engine.ports, work, id, "me")))).rejects.toMatchObject({
    reason: "NEWER_GENERATION",
  });
});

test("specs that nothing can ask for any more go after the retention; what is wanted, observed or open stays", async () => {
  const { deploymentId } = await ended(undefined, 24 * 40);
  for (const hours of [24 * 39, 24 * 38]) await ended(deploymentId, hours, Outcome.SUCCEEDED);
  await ended(deploymentId, 24 * 37, Outcome.FAILED); // generation 4: wanted; 3 is what runs
  await db
    .updateTable("deployment_generations")
    .set({ created_at: sql<Date>`now() - interval '40 days'` })
    .execute();
  await turn();
  const generations = await db
    .selectFrom("deployment_generations")
    .select("generation")
    .orderBy("generation")
    .execute();
  expect(generations.map(({ generation }) => generation)).toEqual([3, 4]);
});
