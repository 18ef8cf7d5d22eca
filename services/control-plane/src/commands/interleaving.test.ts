/** E3 under concurrency: an enqueue and the end of the command ahead, on connections of their own. */
import { beforeAll, expect, test } from "@jest/globals";
import { DeployResult_Outcome as Outcome } from "@bowline/contract/agent";
import { testDatabase } from "@bowline/testing";
import { type Db, transact } from "../platform/transactions.ts";
import { startEngine, type TestEngine } from "./engine.fixture.ts";
import { converge } from "./index.ts";

let db: Db;
beforeAll(async () => {
  ({ db } = await testDatabase());
});

const orders = ["the enqueue holds the deployment", "the end holds the deployment", "neither is ahead"] as const;
/** Agents side by side, so that a thousand rounds take seconds; they share the connections. */
const lanes = 4;
const roundsPerLane = 250;

/** One round: the command ahead ends while a newer one is enqueued. Returns when both have committed. */
async function meet(engine: TestEngine, deploymentId: string, order: (typeof orders)[number]): Promise<void> {
  const claimed = await engine.claimOne();
  if (claimed === undefined) throw new Error("nothing could be claimed: the newer command stayed behind");
  const end = () => engine.result(claimed.commandId, claimed.attempt, Outcome.SUCCEEDED);
  switch (order) {
    case "the enqueue holds the deployment": {
      let ended: Promise<unknown> | undefined;
      await transact(db, async (work) => {
        await converge(engine.ports, work, [engine.wish(deploymentId)]);
        ended ??= end();
      });
      await ended;
      return;
    }
    case "the end holds the deployment": {
      let enqueued: Promise<unknown> | undefined;
      engine.ports.owners.set("test", {
        changed: async () => void (enqueued ??= engine.enqueue(deploymentId)), // inside the end's transaction
      });
      await end();
      engine.ports.owners.delete("test");
      await enqueued;
      return;
    }
    case "neither is ahead":
      await Promise.all([end(), engine.enqueue(deploymentId)]);
      return;
    default:
      order satisfies never;
  }
}

test("an enqueue and the end of the command ahead, in either order, a thousand times: nothing stays BLOCKED", async () => {
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      const engine = await startEngine(db);
      engine.ports.owners.delete("test");
      const { deploymentId } = await engine.enqueue();
      for (let round = 0; round < roundsPerLane; round += 1) {
        await meet(engine, deploymentId, orders[round % orders.length] ?? "neither is ahead");
        const open = await db
          .selectFrom("command_states")
          .select("state")
          .where("deployment_id", "=", deploymentId)
          .where("ended_at", "is", null)
          .execute();
        expect(open).toEqual([{ state: "READY" }]);
      }
    }),
  );
  const ended = await db.selectFrom("command_states").select("attempt").where("state", "=", "SUCCEEDED").execute();
  expect(ended).toHaveLength(lanes * roundsPerLane);
  expect(ended.every(({ attempt }) => attempt === 1)).toBe(true);
}, 300_000); // a thousand rounds of several commits each: ten seconds, or many more on a busy machine
