/** Results on their way from an agent to a real PostgreSQL, where the slice that owns the deployment throws. */
import { create } from "@bufbuild/protobuf";
import { DeployResult_Outcome as Outcome, DeployResultSchema, ResultAck_Disposition } from "@bowline/contract/agent";
import { systemClock } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { expect, test } from "@jest/globals";
import { epoch, startEngine } from "./commands/engine.fixture.ts";
import { tellApart } from "./commands/index.ts";
import { createIntake } from "./sessions/intake.ts";

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
