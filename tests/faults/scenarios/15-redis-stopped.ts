import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";
import { acrossReplicas } from "./across-replicas.ts";

export const redisStopped: Scenario = {
  number: 15,
  title: "Redis stopped: what is published through one replica reaches the agents of the other, slower",
  tries: ["A", "B", "C", "F"],
  needs: ["redis"],
  run,
};

async function run(world: World): Promise<void> {
  const across = await acrossReplicas(world);
  await world.fault("Redis is stopped", async () => {
    await across.pair.kill();
    await across.publishAll(); // before anybody has noticed
    await across.redisIs("degraded");
    await across.publishAll();
    await across.pair.start();
  });
  await across.redisIs("ok");
  await across.publishAll();
  await across.nothingRepeated();
}
