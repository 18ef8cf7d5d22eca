import type { Scenario } from "../scenario.ts";
import { killedAgents } from "./killed-agent.ts";

export const agentAfterEffect: Scenario = {
  number: 7,
  title: "an agent killed after the effect, before its result is told: no second effect, one outcome",
  tries: ["A", "B", "C", "E", "H"],
  run: (world) => killedAgents(world, ["converge.effect", "converge.before-result", "converge.after-result"]),
};
