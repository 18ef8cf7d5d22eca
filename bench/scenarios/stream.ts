/**
 * Round trips on agents' streams per core of the server: each agent says a
 * heartbeat, and the next when it is acknowledged; with every twentieth goes a
 * receipt. Beside Bowline's full session (who it is was checked, order, silence,
 * pace, presence, the acknowledgement, receipts against the rows) servers that
 * only answer.
 */
import { type Figure, ratios } from "../harness/figures.ts";
import { cpuMs } from "../harness/processor-time.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { enrolGroup } from "../stand/seed.ts";
import { asDatabase } from "../stand/stand.ts";

const agents = 64;
/** A heartbeat per 15 s and a command per 5 min. */
const receiptEach = 20;

const wires = [
  { wire: "bare node:http2", of: "bare node:http2 with protobuf-es", atLeast: 0.8 },
  { wire: "grpc-js", of: "grpc-js", atLeast: 1 },
  { wire: "connect-node", of: "connect-node", atLeast: 2.5 },
] as const;

export const stream: Scenario = {
  name: "stream",
  what: "round trips/s per core of a full session, beside bare node:http2, grpc-js, connect-node",
  minutes: 5,
  async measure(run) {
    const { stand, quick } = run;
    const load = stand.load();
    const forMs = quick ? 1_500 : 6_000;
    const server = await stand.server({
      database: await stand.database(asDatabase("stream")),
      flags: ["--redis-url", stand.redis.url],
    });
    await enrolGroup(server, load, { group: "Bowline", count: agents });
    const sides = new Map([["Bowline", { url: server.url, pid: server.process.pid }]]);
    for (const { wire } of wires) {
      const { child, url } = await stand.wire({ wire, port: 0 });
      await load.call("enrol", { group: wire, url, count: agents });
      sides.set(wire, { url, pid: child.pid });
    }
    const once = async (side: string, ms: number): Promise<Record<string, number>> => {
      const { url, pid } = sides.get(side) ?? { url: "", pid: 0 };
      // Opened for the round: streams that wait for others' rounds would fall silent.
      await load.call("openStreams", { streams: side, group: side, url, protocol: "grpc", together: 16 });
      const before = await cpuMs(pid);
      const { roundTrips, seconds } = await load.call("echo", { streams: side, forMs: ms, receiptEach });
      const cpuSeconds = ((await cpuMs(pid)) - before) / 1000;
      await load.call("closeStreams", { streams: side });
      return {
        "round trips/s per core": roundTrips / cpuSeconds,
        "round trips/s": roundTrips / seconds,
        "CPU µs/round trip": (cpuSeconds * 1e6) / roundTrips,
      };
    };
    for (const side of sides.keys()) await once(side, forMs); // compiled code
    const values = await interleaved(
      Object.fromEntries([...sides.keys()].map((side) => [side, () => once(side, forMs)])),
      run,
    );
    const perCore = (side: string): number[] => values[side]?.["round trips/s per core"] ?? [];
    return {
      figures: wires.map(({ wire, of, atLeast }): Figure => ({
        id: `stream/${wire}`,
        what: `round trips/s per core ÷ ${of}`,
        limit: { atLeast },
        rounds: ratios(perCore("Bowline"), perCore(wire)),
      })),
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: [
        `${agents} agents, a connection each, gRPC framing; a receipt with every ${receiptEach}th heartbeat; ${forMs / 1000} s a round`,
        "per core: per second of the server process's CPU time",
      ],
    };
  },
};
