/** What an operator's answer does to a deployment of which the agent has another history. tests/e2e/histories.test.ts has the whole way. */
import { beforeEach, expect, test } from "@jest/globals";
import { DeployResult_Outcome as Outcome } from "@bowline/contract/agent";
import { Deployment_Desired as Desired } from "@bowline/contract/deployments";
import { testDatabase } from "@bowline/testing";
import { type Db, transact } from "../platform/transactions.ts";
import { startEngine, type TestEngine } from "./engine.fixture.ts";
import { converge, settleForks } from "./index.ts";

let db: Db;
let engine: TestEngine;
beforeEach(async () => {
  ({ db } = await testDatabase());
  engine = await startEngine(db);
});

const agentGeneration = 8;

const settle = (deploymentId: string, side: "AGENT" | "SERVER") =>
  transact(db, (work) =>
    settleForks(engine.ports, work, [{ deploymentId, agentGeneration, agentDigest: "d" }], { side, createdBy: "me" }),
  );

/** A removal that takes the volumes as well may follow one that left them. */
async function removeMore(deploymentId: string) {
  const wish = { ...engine.wish(deploymentId), build: () => ({ desired: Desired.ABSENT, removeVolumes: true }) };
  const [removal] = await transact(db, (work) => converge(engine.ports, work, [wish]));
  if (removal === undefined) throw new Error("nothing was enqueued");
  return removal;
}

/** A deployment that was made and is removed. */
async function removed(): Promise<string> {
  const { deploymentId } = await engine.enqueue();
  for (const desired of [undefined, Desired.ABSENT]) {
    if (desired !== undefined) await engine.enqueue(deploymentId, desired);
    const { commandId = "", attempt = 0 } = (await engine.claimOne()) ?? {};
    await engine.receipt(commandId, attempt);
    await engine.result(commandId, attempt, Outcome.SUCCEEDED);
  }
  return deploymentId;
}

const deploymentOf = (id: string) =>
  db.selectFrom("deployments").selectAll().where("id", "=", id).executeTakeFirstOrThrow();

test.each(["AGENT", "SERVER"] as const)(
  "a removal that is open of what is gone already is sent anew above the agent's generation (%s)",
  async (side) => {
    const deploymentId = await removed();
    const { commandId, generation } = await removeMore(deploymentId);
    expect(generation).toBeLessThan(agentGeneration);
    await settle(deploymentId, side);
    expect(await engine.stateOf(commandId)).toBe("SUPERSEDED");
    expect(await deploymentOf(deploymentId)).toMatchObject({ generation: agentGeneration + 1, is_absent: true });
    expect(await engine.claimOne()).toMatchObject({ deploymentId, generation: agentGeneration + 1 });
  },
);

test.each(["AGENT", "SERVER"] as const)(
  "what is gone and owes nothing is asked nothing, and its next removal is above the agent's generation (%s)",
  async (side) => {
    const deploymentId = await removed();
    await settle(deploymentId, side);
    expect(await engine.claimOne()).toBeUndefined();
    expect(await deploymentOf(deploymentId)).toMatchObject({ is_absent: true, held_reason: "" });
    expect((await removeMore(deploymentId)).generation).toBeGreaterThan(agentGeneration);
  },
);
