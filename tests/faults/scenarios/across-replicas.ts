/** Scenarios 15, 16, 17 and 33: an agent on each of two replicas, and whatever is published comes through the other one. */
import assert from "node:assert/strict";
import { type Host } from "../world/hosts.ts";
import type { Place } from "../world/place.ts";
import type { RedisPair } from "../world/redis-pair.ts";
import type { World } from "../world/world.ts";

/** Without a word a command waits for a poll: 1 s apart while Redis is known to be down, 15 s before. */
const publishedWithinMs = 45_000;
/** A breaker opens after a few answers that did not come, and closes after a probe. */
const noticedWithinMs = 60_000;

export interface Across {
  pair: RedisPair;
  hosts: readonly Host[];
  /** Publishes through the replica that the agent is not on, to each; waits until all are carried out. */
  publishAll(): Promise<void>;
  redisIs(state: "ok" | "degraded"): Promise<void>;
  /** Every command succeeded at its first attempt. */
  nothingRepeated(): Promise<void>;
}

export async function acrossReplicas(world: World): Promise<Across> {
  const pair = world.redisPair();
  const [a, b] = pair.replicas;
  await pair.ensure();
  await world.within("Redis is well before", noticedWithinMs, () => pair.is("ok"));
  const sides: { place: Place; through: string }[] = [];
  const hosts: Host[] = [];
  for (const [on, through] of [
    [a, b],
    [b, a],
  ] as const) {
    const place = await world.place(on);
    hosts.push(await place.host());
    sides.push({ place, through: through.url });
  }
  const across: Across = {
    ...{ pair, hosts },
    async publishAll() {
      await world.together(
        sides.map(async ({ place, through }) => {
          await place.publish("first", { url: through });
          await place.settled(publishedWithinMs);
        }),
      );
    },
    redisIs: (state) => world.within(`Redis is ${state}`, noticedWithinMs, () => pair.is(state)),
    async nothingRepeated() {
      for (const { place } of sides) {
        const rows = await place.db
          .selectFrom("command_states as s")
          .innerJoin("commands as c", "c.id", "s.command_id")
          .select(["s.state", "s.attempt", "s.failures"])
          .where("c.cluster_id", "=", place.clusterId)
          .execute();
        for (const { state, attempt, failures } of rows)
          assert.deepEqual([state, attempt, failures], ["SUCCEEDED", 1, 0]);
      }
    },
  };
  await across.publishAll();
  return across;
}
