import type { Scenario } from "../scenario.ts";
import { killedServer } from "./killed-server.ts";

export const acknowledgementLost: Scenario = {
  number: 8,
  title: "a result that is committed and not acknowledged: said again, and recorded once",
  tries: ["A", "B", "D", "E"],
  run: (world) =>
    world.together(
      // Before the commit it is not recorded yet, and said again just so. A first publish has two results.
      ["results.before-commit", "results.committed", "results.committed@2"].map((at) =>
        killedServer(world, { at, asked: false, dialled: true }),
      ),
    ),
};
