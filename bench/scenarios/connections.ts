/** Memory of an idle agent: a server with 10,000 of them, each with a connection of its own, less the server before. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Figure, ratios } from "../harness/figures.ts";
import { residentBytes } from "../harness/processor-time.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { openIdle } from "../stand/idle.ts";

/** So that code is loaded and compiled before the first reading. */
const warmUpAgents = 50;
/** What opening left behind is collected, and first heartbeats are due. */
const settleMs = 3_000;

export const connections: Scenario = {
  name: "connections",
  what: "memory per idle agent at 10,000, clear text and TLS, beside bare node:http2",
  async measure(run) {
    const { stand, quick } = run;
    const load = stand.load();
    const count = quick ? 500 : 10_000;
    const idle = await openIdle(stand, load, { count, flags: [] });
    const once = (kind: "Bowline" | "bare", secure: boolean) => async (): Promise<Record<string, number>> => {
      const server = await idle.start(kind, secure); // a new process: a heap that was large once stays so
      await idle.connect("warm", server, kind, warmUpAgents);
      await load.call("closeStreams", { streams: "warm" });
      await sleep(settleMs);
      const before = await residentBytes(server.pid);
      const startedAt = performance.now();
      await idle.connect("held", server, kind);
      const seconds = (performance.now() - startedAt) / 1000;
      await sleep(settleMs);
      const bytes = (await residentBytes(server.pid)) - before;
      await server.kill();
      await load.call("closeStreams", { streams: "held" });
      return { "KB/agent": bytes / count / 1000, "agents opened/s": count / seconds };
    };
    const values = await interleaved(
      {
        Bowline: once("Bowline", false),
        bare: once("bare", false),
        "Bowline, TLS": once("Bowline", true),
        "bare, TLS": once("bare", true),
      },
      run,
    );
    const figure = (id: string, what: string, suffix: "" | ", TLS"): Figure => ({
      ...{ id, what, limit: { atMost: 1.4 } },
      rounds: ratios(values[`Bowline${suffix}`]["KB/agent"] ?? [], values[`bare${suffix}`]["KB/agent"] ?? []),
    });
    return {
      figures: [
        figure("connections/clear", "memory per idle agent ÷ bare node:http2", ""),
        figure("connections/tls", "the same with TLS", ", TLS"),
      ],
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: [
        `${count} agents with a connection each, at a process started for it; proportional set size, ${settleMs / 1000} s after the last came`,
      ],
    };
  },
};
