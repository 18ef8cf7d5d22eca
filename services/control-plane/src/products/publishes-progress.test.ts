/** Progress of many commands at once, as replicas tell it. */
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { CommandProgressSchema } from "@bowline/contract/agent";
import { testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { recordProgress } from "../commands/index.ts";
import { manifest, startPublishing } from "./publishes.fixture.ts";

/** Enough that wrong orders meet. */
const rounds = 25;

test("two replicas that tell of the same publishes in other orders never wait for each other in a circle", async () => {
  const { db, open } = await testDatabase();
  const pool = open({ applicationName: "replicas" });
  const { ports, cluster, apply, agent, alpha } = await startPublishing(pool.db);
  const clusterId = await cluster("local");
  const agents = [await agent(clusterId), await agent(clusterId)];
  for (const name of ["one", "two"]) {
    await apply(manifest(name));
    await alpha.createProductPublish({ productId: name, clusterId });
  }
  const told = [];
  for (const one of agents) {
    const commands = (await one.claim()).filter(({ productPublishId }) => productPublishId !== "");
    expect(commands).toHaveLength(2);
    for (const command of commands) await one.receive(command);
    const byPublish = commands.toSorted((a, b) => (a.productPublishId < b.productPublishId ? -1 : 1));
    told.push(told.length === 0 ? byPublish : byPublish.toReversed());
  }
  const versions = async () =>
    (await db.selectFrom("product_publishes").select("version").execute()).reduce((sum, row) => sum + row.version, 0);
  const before = await versions();
  for (let round = 1; round <= rounds; round += 1) {
    await Promise.all(
      told.map((commands) =>
        recordProgress(
          ports.engine(),
          commands.map(({ agentId, epoch, commandId, attempt }) => ({
            ...{ agentId, epoch },
            message: create(CommandProgressSchema, { commandId, attempt, phase: "PULLING", percent: round }),
          })),
        ),
      ),
    );
  }
  expect(await versions()).toBe(before + rounds * 4);
  // A backend has told its figures when it is gone.
  await pool.end();
  await until(async () => {
    const { rows } = await sql`SELECT 1 FROM pg_stat_activity WHERE application_name = 'replicas'`.execute(db);
    return rows.length === 0;
  });
  const { rows } = await sql<{ count: number }>`
    SELECT deadlocks AS count FROM pg_stat_database WHERE datname = current_database()`.execute(db);
  expect(rows).toEqual([{ count: 0 }]);
});
