import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";
import { acrossReplicas } from "./across-replicas.ts";

const lateMs = 5_000;

export const redisSlow: Scenario = {
  number: 17,
  title: "Redis answering after 5 s: no call and no command waits that long for it",
  tries: ["A", "B", "C", "F"],
  needs: ["redis"],
  run,
};

async function run(world: World): Promise<void> {
  const across = await acrossReplicas(world);
  await world.fault("Redis answers late", async () => {
    across.pair.way.delay(lateMs);
    await across.publishAll();
    await across.redisIs("degraded");
    await across.publishAll();
    across.pair.way.delay(0);
  });
  await across.redisIs("ok");
  await across.publishAll();
  await across.nothingRepeated();
}
