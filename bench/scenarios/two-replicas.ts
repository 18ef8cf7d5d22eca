/** What it costs that a command is published on one replica and its agent is at another. */
import { type Figure, ratios } from "../harness/figures.ts";
import { interleaved } from "../harness/rounds.ts";
import type { Scenario } from "../harness/scenario.ts";
import { addDeployments, enrolGroup } from "../stand/seed.ts";
import { agents, callers, measured, type Ready, readyBowline, warmUp } from "./dispatch.ts";

export const twoReplicas: Scenario = {
  name: "two-replicas",
  what: "commands per CPU second, published on A with the agent on B, beside one replica",
  minutes: 3,
  async measure(run) {
    const { stand, quick } = run;
    const load = stand.load();
    const forMs = quick ? 1_500 : 6_000;
    const one = await readyBowline(stand, load, { name: "one" });
    const a = await readyBowline(stand, load, { name: "a" });
    const b = await stand.server({ beside: a.server, flags: ["--redis-url", stand.redis.url] });
    // Agents of their own at B, called at A.
    const agentIds = await enrolGroup(b, load, { group: "across", count: agents });
    const deployments = await addDeployments(b, agentIds, callers / agents, "deployment_across");
    const authorization = `Bearer ${b.adminToken}`;
    const at = { url: b.url, callAt: a.server.url, authorization, deployments };
    await load.call("openFleet", { fleet: "across", group: "across", ...at });
    const across: Ready = { pids: [a.server.process.pid, b.process.pid], settled: async () => undefined };
    for (const fleet of ["one", "across"]) await warmUp(run, load, fleet, forMs);
    const once = (fleet: string, ready: Ready) => async (): Promise<Record<string, number>> => {
      const value = await measured(run, load, fleet, ready, forMs);
      return { "commands/servers' CPU s": 1000 / (value["server CPU ms/command"] ?? Number.NaN), ...value };
    };
    const values = await interleaved({ "one replica": once("one", one), "A and B": once("across", across) }, run);
    const figure: Figure = {
      ...{ id: "two-replicas/cpu", what: "commands per CPU second across replicas ÷ one", limit: { atLeast: 0.85 } },
      rounds: ratios(
        values["A and B"]["commands/servers' CPU s"] ?? [],
        values["one replica"]["commands/servers' CPU s"] ?? [],
      ),
    };
    return {
      figures: [figure],
      sides: Object.entries(values).map(([side, of]) => ({ side, values: of })),
      notes: ["CPU of both replicas; wake-ups through Redis"],
    };
  },
};
