/** The fence of a Sync (E1): what is told in a session that is the agent's no more changes nothing. */
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { type Sync, SyncSchema } from "@bowline/contract/agent";
import { newId } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { createEvents } from "../platform/events.ts";
import { transact } from "../platform/transactions.ts";
import { awaitsDecision } from "./disputes.ts";

async function start() {
  const { db } = await testDatabase();
  const log = { error: () => undefined, warn: () => undefined };
  const signals = {
    wake: () => undefined,
    cancel: () => undefined,
    pushAgain: () => undefined,
    close: () => undefined,
  };
  const engine = { db, events: createEvents(db, log), owners: new Map(), signals, random: () => 0, log };
  const [clusterId, agentId] = [newId("cluster"), newId("agent")];
  await db.insertInto("clusters").values({ id: clusterId, name: "factory-7", runtime: "local" }).execute();
  await db
    .insertInto("agents")
    .values({
      ...{ id: agentId, cluster_id: clusterId, name: "one", runtime: "local", runtime_identity: agentId },
      ...{ signing_key: "{}", signing_thumbprint: agentId, sealing_key: "{}" },
    })
    .execute();
  await db
    .insertInto("sessions")
    .values({ agent_id: agentId, id: newId("session"), epoch: 2, replica_id: "r", state: "SYNCING" })
    .execute();
  const told = (epoch: number, pages: Sync[]) =>
    transact(db, (work) => awaitsDecision(engine, work, { agentId, epoch }, pages));
  const known = async () => ({
    ...(await db.selectFrom("agents").select(["state", "decision"]).executeTakeFirstOrThrow()),
    disputes: (await db.selectFrom("agent_disputes").select("deployment_id").execute()).length,
  });
  return { told, known };
}

test("what the session before says of another history puts nobody into AWAITING_DECISION; what the present one says does", async () => {
  const { told, known } = await start();
  const ahead = { deploymentId: newId("deployment"), generation: 9, digest: "" };
  const pages = [create(SyncSchema, { deployments: [ahead], last: true })];
  expect(await told(1, pages)).toBeUndefined();
  expect(await known()).toEqual({ state: "ENROLLED", decision: "", disputes: 0 });
  expect(await told(2, pages)).toBe(true);
  expect(await known()).toEqual({ state: "AWAITING_DECISION", decision: "DEPLOYMENTS_DIFFER", disputes: 1 });
});
