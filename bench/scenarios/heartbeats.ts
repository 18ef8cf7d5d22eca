/** CPU of a server whose agents say a heartbeat per 15 s, presence in Redis and last_seen in PostgreSQL included. */
import { type Figure, ratios } from "../harness/figures.ts";
import { cpuMs } from "../harness/processor-time.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { type Kind, openIdle } from "../stand/idle.ts";

const everyMs = 15_000;

export const heartbeats: Scenario = {
  name: "heartbeats",
  what: "CPU for 10,000 agents at 15 s, presence included, beside a bare node:http2 echo",
  minutes: 7,
  async measure(run) {
    const { stand, quick } = run;
    const count = quick ? 1_000 : 10_000;
    // One whole interval, so that each agent speaks once; quicker where it is only tried.
    const forMs = quick ? 5_000 : everyMs;
    // Two others' rounds may lie between two of a side; no agent is to be late by then.
    const flags = ["--silence-limit-ms", "600000"];
    const pids = new Map<Kind, number>();
    const loads = { Bowline: stand.load(), bare: stand.load() };
    for (const kind of ["Bowline", "bare"] as const) {
      const idle = await openIdle(stand, loads[kind], { name: kind, kind, count, flags });
      const server = await idle.start(false);
      await idle.connect(kind, server);
      pids.set(kind, server.pid);
      await loads[kind].call("beat", { streams: kind, everyMs, forMs }); // compiled code
    }
    const once = (kind: Kind) => async (): Promise<Record<string, number>> => {
      const pid = pids.get(kind) ?? 0;
      const before = await cpuMs(pid);
      const startedAt = performance.now();
      const { roundTrips } = await loads[kind].call("beat", { streams: kind, everyMs, forMs });
      const seconds = (performance.now() - startedAt) / 1000;
      const used = (await cpuMs(pid)) - before;
      return { "% of a core": used / seconds / 10, "CPU µs/heartbeat": (used * 1000) / roundTrips };
    };
    const values = await interleaved({ Bowline: once("Bowline"), bare: once("bare") }, run);
    const figure: Figure = {
      ...{ id: "heartbeats/cpu", what: "CPU of heartbeats ÷ bare node:http2 echo", limit: { atMost: 2 } },
      rounds: ratios(values.Bowline["CPU µs/heartbeat"] ?? [], values.bare["CPU µs/heartbeat"] ?? []),
    };
    return {
      figures: [figure],
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: [
        `${count} agents with a connection each, a heartbeat per ${everyMs / 1000} s and agent, ${forMs / 1000} s a round; pings are on, as they are by default`,
      ],
    };
  },
};
