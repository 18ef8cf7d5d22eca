import type { Scenario } from "../scenario.ts";
import { killedServer } from "./killed-server.ts";

export const serverBeforeCommit: Scenario = {
  number: 1,
  title: "a server killed before the enqueue's commit: nothing of it is there, and the repeated call is one publish",
  tries: ["A", "B", "D", "H"],
  run: (world) => killedServer(world, { at: "request.before-commit", asked: true, dialled: false }),
};
