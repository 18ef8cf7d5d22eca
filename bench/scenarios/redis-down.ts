/** Dispatch with Redis stopped beside the same with Redis. */
import { setTimeout as sleep } from "node:timers/promises";
import { ratios } from "../harness/figures.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { measured, readyBowline, warmUp } from "./dispatch.ts";

/** The breaker has opened, or closed again, and what was missed was looked for. */
const settleMs = 3_000;

export const redisDown: Scenario = {
  name: "redis-down",
  what: "dispatch with Redis stopped, beside healthy",
  minutes: 4,
  async measure(run) {
    const { stand, quick } = run;
    const load = stand.load();
    const forMs = quick ? 1_500 : 6_000;
    const ready = await readyBowline(stand, load);
    await warmUp(run, load, "Bowline", forMs);
    const once = () => measured(run, load, "Bowline", ready, forMs);
    const values = await interleaved(
      {
        healthy: once,
        "Redis stopped": async () => {
          await stand.redis.stop();
          await sleep(settleMs);
          const value = await once();
          await stand.redis.start();
          await sleep(settleMs);
          return value;
        },
      },
      run,
    );
    return {
      figures: [
        {
          ...{ id: "redis-down/dispatch", what: "commands/s with Redis stopped ÷ healthy", limit: { atLeast: 0.8 } },
          rounds: ratios(values["Redis stopped"]["commands/s"] ?? [], values.healthy["commands/s"] ?? []),
        },
      ],
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: [`one replica, as in dispatch; ${settleMs / 1000} s after Redis ended`],
    };
  },
};
