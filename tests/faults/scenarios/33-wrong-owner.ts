/** Redis says that agents are where they are not: rows decide, and a word to the wrong replica costs time only. */
import assert from "node:assert/strict";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";
import { acrossReplicas } from "./across-replicas.ts";

export const wrongOwner: Scenario = {
  number: 33,
  title: "Redis names a wrong owner: commands go where the rows say, and nobody else claims them",
  tries: ["A", "B", "C", "F"],
  needs: ["redis"],
  run,
};

async function run(world: World): Promise<void> {
  const across = await acrossReplicas(world);
  const { pair, hosts } = across;
  const [a, b] = pair.replicas;
  const { id: installation } = await a.database.db.selectFrom("installation").select("id").executeTakeFirstOrThrow();
  await world.fault("Redis lies", async () => {
    for (const [at, host] of hosts.entries()) {
      const { replicaId } = at === 0 ? b : a;
      const key = `bowline:${installation}:agent:${await host.agentId()}`;
      const told = await pair.ask(`HSET ${key} replica ${replicaId} session session_nobodys epoch 999999`);
      assert.match(told, /^:/);
      await pair.ask(`PERSIST ${key}`);
    }
    for (let round = 0; round < 3; round += 1) await across.publishAll();
  });
  await pair.ask("FLUSHALL");
  await across.publishAll();
  await across.nothingRepeated();
}
