import type { Scenario } from "../scenario.ts";
import { killedAgents } from "./killed-agent.ts";

export const agentBeforeEffect: Scenario = {
  number: 6,
  title: "an agent killed after the journal, before the effect: the next start does what the journal has",
  tries: ["A", "B", "C", "E"],
  run: (world) => killedAgents(world, ["intake.before-receipt", "intake.after-receipt", "converge.started"]),
};
