import type { Scenario } from "../scenario.ts";
import { killedAgents } from "./killed-agent.ts";

export const agentBeforeJournal: Scenario = {
  number: 5,
  title: "an agent killed before its journal write: it knows of nothing, and is sent it again, same attempt",
  tries: ["A", "B", "C", "E"],
  run: (world) => killedAgents(world, ["intake.before-journal"]),
};
