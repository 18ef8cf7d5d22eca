import { setTimeout as sleep } from "node:timers/promises";
import type { Scenario } from "../scenario.ts";
import type { World } from "../world/world.ts";
import { type Across, acrossReplicas } from "./across-replicas.ts";

const rounds = 5;

/** What may happen to a Redis in a round, while two publishes are on their way. */
const troubles: readonly ((across: Across, forMs: number) => Promise<void>)[] = [
  async ({ pair }) => void (await pair.ask("FLUSHALL")),
  async ({ pair }, forMs) => {
    await pair.kill();
    await sleep(forMs);
    await pair.start();
  },
  async ({ pair }, forMs) => {
    pair.signal("SIGSTOP");
    await sleep(forMs);
    pair.signal("SIGCONT");
  },
  async ({ pair }, forMs) => {
    pair.way.cut();
    await sleep(forMs);
    pair.way.mend();
  },
];

export const redisFlapping: Scenario = {
  number: 16,
  title: "Redis flapping and flushed: no publish waits for it, and none is carried out twice",
  tries: ["A", "B", "C", "F"],
  needs: ["redis"],
  run,
};

async function run(world: World): Promise<void> {
  const across = await acrossReplicas(world);
  await world.fault("Redis flaps", async () => {
    for (let round = 0; round < rounds; round += 1) {
      const trouble = world.random.pick(troubles);
      await world.together([trouble(across, world.random.between(0, 2_000)), across.publishAll()]);
    }
  });
  await across.pair.ask("FLUSHALL"); // presence and owners are gone, and nobody is told
  await across.publishAll();
  await across.redisIs("ok");
  await across.nothingRepeated();
}
