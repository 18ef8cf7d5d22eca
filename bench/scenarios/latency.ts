/**
 * Two waits. In an idle fleet: from the commit of the enqueue to the
 * DeployCommand at the agent, beside the commit of one row. Under a burst of 64
 * callers: until the call is answered, beside the same handler with
 * graphile-worker's documented enqueue.
 *
 * The time of the commit is PostgreSQL's own (track_commit_timestamp), which it
 * takes before it writes to the disk: what is measured includes that write.
 */
import pg from "pg";
import { sql } from "kysely";
import { type Figure, percentile, ratios } from "../harness/figures.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { readyBowline, readyPeer } from "./dispatch.ts";

const burst = 64;
/** Between two commands of an idle fleet. */
const pauseMs = 20;

export const latency: Scenario = {
  name: "latency",
  what: "commit to DeployCommand in an idle fleet, beside a one-row commit; time to accept in a burst, beside graphile-worker",
  commitTimes: true,
  minutes: 3,
  async measure(run) {
    const { stand, quick } = run;
    const load = stand.load();
    const commands = quick ? 20 : 400;
    const bursts = quick ? 2 : 10;
    const bowline = await readyBowline(stand, load);
    const peer = "graphile-worker";
    await readyPeer(stand, load, peer);
    for (const fleet of ["Bowline", peer])
      await load.call("dispatch", { fleet, callers: burst, forMs: quick ? 500 : 4_000 });
    const { db, address } = bowline.server.database;

    async function idle(): Promise<Record<string, number>> {
      const pushed = await load.call("oneByOne", { fleet: "Bowline", commands, pauseMs });
      const { rows } = await sql<{ id: string; at: number }>`
        SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 * 1000 AS at
        FROM commands WHERE id = ANY(${[...pushed.keys()]}::text[])`.execute(db);
      if (rows.length !== commands) throw new Error(`void: of ${commands} commands ${rows.length} are kept`);
      const waits = rows.map(({ id, at }) => (pushed.get(id) ?? Number.NaN) - at);
      const row = await oneRowCommits(address as pg.ClientConfig, commands);
      return {
        "push p50 ms": percentile(waits, 50),
        "push p99 ms": percentile(waits, 99),
        "one-row commit p50 ms": percentile(row, 50),
      };
    }
    const accept = (fleet: string) => async (): Promise<Record<string, number>> => {
      const all: number[] = [];
      for (let count = 0; count < bursts; count += 1) {
        const { acceptedMs } = await load.call("dispatch", { fleet, callers: burst, forMs: 10_000, limit: burst });
        all.push(...acceptedMs);
      }
      return { "accepted p50 ms": percentile(all, 50), "accepted p99 ms": percentile(all, 99) };
    };
    const values = await interleaved(
      { "idle fleet": idle, "Bowline, burst": accept("Bowline"), "graphile-worker, burst": accept(peer) },
      run,
    );
    const commit = values["idle fleet"]["one-row commit p50 ms"] ?? [];
    const figure = (percent: 50 | 99, atMost: number): Figure => ({
      ...{ id: `latency/push-p${percent}`, what: `commit to DeployCommand, p${percent} ÷ a one-row commit` },
      ...{ limit: { atMost }, rounds: ratios(values["idle fleet"][`push p${percent} ms`] ?? [], commit) },
    });
    return {
      figures: [
        figure(50, 3),
        figure(99, 10),
        {
          id: "latency/accept",
          what: `time to accept, p50, ${burst} callers at once ÷ graphile-worker's documented enqueue`,
          limit: { atMost: 0.25 },
          rounds: ratios(
            values["Bowline, burst"]["accepted p50 ms"] ?? [],
            values["graphile-worker, burst"]["accepted p50 ms"] ?? [],
          ),
        },
      ],
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: [
        `idle: ${commands} commands a round, one after the other; the commit is of the enqueue, by PostgreSQL's clock, before its write to the disk`,
        "a one-row commit: an INSERT on a connection that is open, from its call to its answer; the median, for both figures",
        `burst: ${bursts} bursts a round`,
      ],
    };
  },
};

/** The time that each takes, ms. */
async function oneRowCommits(address: pg.ClientConfig, count: number): Promise<number[]> {
  const client = new pg.Client(address);
  client.on("error", () => undefined); // the statement tells
  await client.connect();
  try {
    await client.query("CREATE TABLE IF NOT EXISTS bench_rows (id bigserial PRIMARY KEY, note text NOT NULL)");
    const times: number[] = [];
    for (let number = 0; number < count; number += 1) {
      const startedAt = performance.now();
      await client.query({ name: "row", text: "INSERT INTO bench_rows (note) VALUES ($1)", values: ["a row"] });
      times.push(performance.now() - startedAt);
    }
    return times;
  } finally {
    await client.end();
  }
}
