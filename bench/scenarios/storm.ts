/** A server is killed under 5,000 agents and starts again at once: how long until all are back, and how busy it was. */
import { type Figure, ratios } from "../harness/figures.ts";
import { cpuMs } from "../harness/processor-time.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { type IdleServer, openIdle } from "../stand/idle.ts";

export const storm: Scenario = {
  name: "storm",
  what: "5,000 agents return after a kill, clear text and TLS, beside bare node:http2 with the same back-off",
  minutes: 9,
  async measure(run) {
    const { stand, quick } = run;
    const count = quick ? 300 : 5_000;
    // Streams of other sides wait for their round without a word.
    const flags = ["--silence-limit-ms", "900000"];
    const sides = {
      Bowline: ["Bowline", false],
      bare: ["bare", false],
      "Bowline, TLS": ["Bowline", true],
      "bare, TLS": ["bare", true],
    } as const;
    const servers = new Map<string, IdleServer>();
    const loads = new Map<string, ReturnType<typeof stand.load>>();
    for (const [side, [kind, secure]] of Object.entries(sides)) {
      const load = stand.load();
      const idle = await openIdle(stand, load, { name: side, kind, count, flags });
      const server = await idle.start(secure);
      await idle.connect(side, server);
      servers.set(side, server);
      loads.set(side, load);
    }
    const once = (side: string) => async (): Promise<Record<string, number>> => {
      const server = servers.get(side);
      const load = loads.get(side);
      if (server === undefined || load === undefined) throw new Error(`there is no ${side}`);
      const back = load.call("comeBack", { streams: side });
      const killedAt = performance.now();
      await server.kill();
      const again = await server.again();
      const startMs = performance.now() - killedAt;
      servers.set(side, again);
      const usedBefore = await cpuMs(load.pid);
      const { ms, dials } = await back;
      const loadMs = (await cpuMs(load.pid)) - usedBefore;
      return {
        "s until all are back": ms / 1000,
        "s until it listens": startMs / 1000,
        "dials/agent": dials / count,
        "load % of a core": (loadMs / (ms - startMs)) * 100,
        "event loop delay p99 ms": await again.eventLoopDelayP99Ms(),
      };
    };
    const values = await interleaved(
      {
        Bowline: once("Bowline"),
        bare: once("bare"),
        "Bowline, TLS": once("Bowline, TLS"),
        "bare, TLS": once("bare, TLS"),
      },
      run,
    );
    const figures = (["", ", TLS"] as const).flatMap((suffix): Figure[] => {
      const of = (name: string): number[] =>
        ratios(values[`Bowline${suffix}`][name] ?? [], values[`bare${suffix}`][name] ?? []);
      const id = suffix === "" ? "clear" : "tls";
      return [
        {
          ...{ id: `storm/${id}/time`, what: `time until all are back ÷ bare node:http2${suffix}` },
          ...{ limit: { atMost: 1.5 }, rounds: of("s until all are back") },
        },
        {
          ...{ id: `storm/${id}/delay`, what: `event loop delay p99 ÷ bare node:http2${suffix}` },
          ...{ limit: { atMost: 3 }, rounds: of("event loop delay p99 ms") },
        },
      ];
    });
    return {
      figures,
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: [
        `${count} agents; SIGKILL, and the server's start is within the time; back-off with full jitter, 1 s to 60 s`,
        "--dials-per-second 0: with its default of 200 a replica spreads the return over longer on purpose",
      ],
    };
  },
};
