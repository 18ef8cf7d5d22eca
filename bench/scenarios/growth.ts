/**
 * Dispatch where there is much already: a database with 1 M finished and 100 k
 * waiting commands, and one where a transaction stays open while 500 k row
 * versions die, each beside an empty one.
 */
import pg from "pg";
import { type Figure, ratios } from "../harness/figures.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { churn, grow } from "../stand/grown.ts";
import { measured, type Ready, readyBowline, warmUp } from "./dispatch.ts";

export const growth: Scenario = {
  name: "growth",
  what: "dispatch with 1 M finished and 100 k waiting, and with 500 k dead row versions, beside empty",
  minutes: 7,
  async measure(run) {
    const { stand, quick } = run;
    const load = stand.load();
    const forMs = quick ? 1_500 : 6_000;
    const size = quick
      ? { finished: 50_000, waiting: 5_000, dead: 25_000 }
      : { finished: 1_000_000, waiting: 100_000, dead: 500_000 };
    const names = ["empty", "grown", "held"] as const;
    const ready = new Map<string, Ready>();
    for (const name of names) {
      const side = await readyBowline(stand, load, { name });
      ready.set(name, side);
      await warmUp(run, load, name, forMs); // and first rows
      if (name === "grown") await grow(side.server, load, size);
      if (name === "held") {
        const address = side.server.database.address;
        const open = new pg.Client(typeof address === "string" ? { connectionString: address } : address);
        open.on("error", () => undefined); // it ends with the run
        await open.connect();
        stand.endings.add(() => open.end());
        await open.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
        await open.query("SELECT count(*) FROM installation");
        await grow(side.server, load, { finished: 2_500, waiting: 2_500 });
        await churn(side.server, size.dead);
      }
    }
    const once = (name: string) => async (): Promise<Record<string, number>> => {
      const side = ready.get(name);
      if (side === undefined) throw new Error(`there is no ${name}`);
      return measured(run, load, name, side, forMs);
    };
    const values = await interleaved({ empty: once("empty"), grown: once("grown"), held: once("held") }, run);
    const figure = (name: "grown" | "held", what: string, atLeast: number): Figure => ({
      ...{ id: `growth/${name}`, what, limit: { atLeast } },
      rounds: ratios(values[name]["commands/s"] ?? [], values.empty["commands/s"] ?? []),
    });
    return {
      figures: [
        figure("grown", "commands/s with many finished and waiting ÷ empty", 0.9),
        figure("held", "commands/s with a transaction open while row versions die ÷ empty", 0.8),
      ],
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: [
        `grown: ${size.finished} finished, none moved to history yet, and ${size.waiting} waiting for agents that are away`,
        `held: ${size.dead} dead versions in commands' and deployments' tables before the first round, and more with each`,
      ],
    };
  },
};
