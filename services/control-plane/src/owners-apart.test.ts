/** Commands on their way between agents and a real PostgreSQL, where the slice that owns the deployment throws. */
import { create } from "@bufbuild/protobuf";
import { DeployResult_Outcome as Outcome, DeployResultSchema, ResultAck_Disposition } from "@bowline/contract/agent";
import { systemClock } from "@bowline/kernel";
import { testDatabase, until } from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { epoch, startEngine } from "./commands/engine.fixture.ts";
import { agentGone, reconcile, sessionEnded, tellApart } from "./commands/index.ts";
import { transact } from "./platform/transactions.ts";
import { createDispatcher } from "./sessions/dispatcher.ts";
import { createIntake } from "./sessions/intake.ts";
import { createLiveSessions, type Outgoing } from "./sessions/live.ts";

test("a result whose owner's slice throws is recorded at the third try, the next command goes on, and the owner is told later", async () => {
  const { db } = await testDatabase();
  const engine = await startEngine(db);
  const { ports, agentId, stateOf } = engine;
  const poisoned = await engine.enqueue();
  await engine.claimOne();
  const next = await engine.enqueue(poisoned.deploymentId);
  const sound = await engine.enqueue();
  await engine.claimOne();
  const told: string[] = [];
  let isBroken = true;
  ports.owners.set("test", {
    changed: async (_work, commands) => {
      if (isBroken && commands.some(({ id }) => id === poisoned.commandId)) throw new Error("a defect of the slice");
      told.push(...commands.map(({ id, state }) => `${id} ${state}`));
    },
  });
  const intake = createIntake(ports, systemClock);
  const result = ({ commandId }: { commandId: string }) =>
    intake.result({
      agentId,
      epoch,
      message: create(DeployResultSchema, { commandId, attempt: 1, outcome: Outcome.SUCCEEDED }),
    });

  const [first, other] = await Promise.allSettled([result(poisoned), result(sound)]);
  expect([first.status, other.status]).toEqual(["rejected", "fulfilled"]);
  await expect(result(poisoned)).rejects.toThrow("a defect of the slice");
  expect(await stateOf(poisoned.commandId)).toBe("ASSIGNED");
  expect(await result(poisoned)).toMatchObject({ disposition: ResultAck_Disposition.RECORDED });
  expect(await stateOf(poisoned.commandId)).toBe("SUCCEEDED");
  expect(await stateOf(next.commandId)).toBe("READY");
  const setAside = () =>
    db
      .selectFrom("command_states")
      .select("command_id")
      .where("domain_error", "<>", "")
      .orderBy("command_id")
      .execute();
  expect(await setAside()).toEqual(
    [poisoned.commandId, next.commandId].toSorted().map((command_id) => ({ command_id })),
  );

  expect(await tellApart(ports, { from: "" })).toBe(1); // the promoted one; the other fails again
  isBroken = false;
  expect(await tellApart(ports, { from: "" })).toBe(1);
  expect(await tellApart(ports, { from: "" })).toBe(0);
  expect(told.slice(-2)).toEqual([`${next.commandId} READY`, `${poisoned.commandId} SUCCEEDED`]);
  expect(await setAside()).toEqual([]);
});

test("where a slice throws at a claim its command is pushed all the same, and so are those of others", async () => {
  const { db } = await testDatabase();
  const { ports, agentId, enqueue } = await startEngine(db);
  const [poisoned, sound] = [await enqueue(), await enqueue()];
  ports.owners.set("test", {
    changed: async (_work, commands) => {
      if (commands.some(({ id }) => id === poisoned.commandId)) throw new Error("a defect of the slice");
    },
  });
  const sent: Outgoing["message"][] = [];
  const live = createLiveSessions(() => undefined);
  live.add({
    ...{ agentId, clusterId: "", transport: "STREAM", sessionId: "", epoch, openedAt: 0, queued: 0 },
    ...{ phase: "serving", takes: "everything", pushedRemovals: new Set(), lastSeen: new Date() },
    send: ({ message }) => void sent.push(message),
    close: () => undefined,
    leave: () => undefined,
  });
  const dispatcher = createDispatcher({ engine: () => ports, live, replicaId: "r", hears: () => true });
  const stop = new AbortController();
  const running = dispatcher.run(stop.signal);
  dispatcher.wake([agentId]);
  await until(() => sent.length === 2);
  stop.abort();
  await running;
  const ids = sent.map((message) => (message?.case === "deployCommand" ? message.value.commandId : message?.case));
  expect(ids).toEqual([poisoned.commandId, sound.commandId]);
  expect(await tellApart(ports, { from: "" })).toBe(1);
});

test("an agent comes, goes and is revoked whatever a slice makes of it, and nothing of what the slice did stays", async () => {
  const { db } = await testDatabase();
  const { ports, agentId, clusterId, claimOne, ...engine } = await startEngine(db);
  const { commandId } = await engine.enqueue();
  await claimOne();
  await engine.receipt(commandId, 1);
  let isBroken = true;
  const told: string[] = [];
  ports.owners.set("test", {
    changed: async ({ tx }, commands) => {
      await tx.updateTable("clusters").set({ display_name: "half done" }).where("id", "=", clusterId).execute();
      if (isBroken) throw new Error("a defect of the slice");
      told.push(...commands.map(({ state }) => state));
    },
  });
  const command = () =>
    db
      .selectFrom("command_states")
      .select(["state", "bound_epoch", "domain_error"])
      .where("command_id", "=", commandId)
      .executeTakeFirstOrThrow();
  const domain_error = "a defect of the slice";
  await transact(db, (work) => sessionEnded(ports, work, agentId, epoch));
  expect(await command()).toEqual({ state: "RUNNING", bound_epoch: null, domain_error });
  await transact(db, (work) => reconcile(ports, work, { agentId, epoch: 2, journalWhole: false, journal: [] }));
  expect(await command()).toEqual({ state: "READY", bound_epoch: null, domain_error });
  await transact(db, (work) => agentGone(ports, work, agentId, { retired: false }));
  expect(await command()).toEqual({ state: "CANCELLED", bound_epoch: null, domain_error });
  const cluster = () =>
    db.selectFrom("clusters").select("display_name").where("id", "=", clusterId).executeTakeFirstOrThrow();
  expect(await cluster()).toEqual({ display_name: "" });
  isBroken = false;
  expect(await tellApart(ports, { from: "" })).toBe(1);
  expect(told).toEqual(["CANCELLED"]);
});
