/**
 * Memory of an idle agent: a server with 10,000 of them, each with a connection
 * of its own, less the server before. Read after both have collected their
 * garbage: what opening has left behind is no cost of holding, and how much of
 * it lies around depends on when V8 collected last. What the kernel counted
 * before is beside it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Figure, ratios } from "../harness/figures.ts";
import { collectGarbage } from "../harness/garbage.ts";
import { cpuMs, residentBytes } from "../harness/processor-time.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { type IdleServer, type Kind, openIdle } from "../stand/idle.ts";

/** So that code is loaded and compiled before the first reading. */
const warmUpAgents = 50;
/** What was said at the opening is answered. */
const settleMs = 1_000;

export const connections: Scenario = {
  name: "connections",
  what: "memory per idle agent at 10,000, clear text and TLS, beside bare node:http2",
  minutes: 9,
  async measure(run) {
    const { stand, quick } = run;
    const load = stand.load();
    const count = quick ? 500 : 10_000;
    const open = (kind: Kind) => openIdle(stand, load, { name: kind, kind, count, flags: [], inspected: true });
    const idles = { Bowline: await open("Bowline"), bare: await open("bare") };
    const collected = async ({ pid, inspector }: IdleServer): Promise<number> => {
      if (inspector === undefined) throw new Error("a server does not say where its inspector is");
      await collectGarbage(inspector);
      return residentBytes(pid);
    };
    const once = (kind: Kind, secure: boolean) => async (): Promise<Record<string, number>> => {
      const idle = idles[kind];
      const server = await idle.start(secure); // a new process: a heap that was large once stays so
      await idle.connect("warm", server, { only: warmUpAgents });
      await load.call("closeStreams", { streams: "warm" });
      await sleep(settleMs);
      const before = await collected(server);
      const used = { server: await cpuMs(server.pid), load: await cpuMs(load.pid) };
      const startedAt = performance.now();
      await idle.connect("held", server, { idle: true });
      const seconds = (performance.now() - startedAt) / 1000;
      await sleep(settleMs);
      const opening = {
        "agents opened/s": count / seconds,
        "server CPU ms/opened": ((await cpuMs(server.pid)) - used.server) / count,
        "load CPU ms/opened": ((await cpuMs(load.pid)) - used.load) / count,
      };
      const uncollected = (await residentBytes(server.pid)) - before;
      const bytes = (await collected(server)) - before;
      await load.call("allOpen", { streams: "held" });
      await server.kill();
      await load.call("closeStreams", { streams: "held" });
      return { "KB/agent": bytes / count / 1000, "before collecting": uncollected / count / 1000, ...opening };
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
        `${count} agents with a connection each, at a process started for it; each says its heartbeats, and all were there at the end`,
        "proportional set size, after collecting garbage before and after; KB per agent before collecting beside it",
      ],
    };
  },
};
