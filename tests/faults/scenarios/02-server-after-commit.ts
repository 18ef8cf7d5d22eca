import type { Scenario } from "../scenario.ts";
import { killedServer } from "./killed-server.ts";

export const serverAfterCommit: Scenario = {
  number: 2,
  title: "a server killed after the commit, before the 202: the repeated call finds the publish that there is",
  tries: ["A", "B", "D", "H"],
  run: (world) => killedServer(world, { at: "request.committed", asked: true, dialled: false }),
};
