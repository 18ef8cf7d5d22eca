import type { Scenario } from "../scenario.ts";
import { killedServer } from "./killed-server.ts";

export const serverAfterClaim: Scenario = {
  number: 3,
  title: "a server killed after the claim, before the push: the agent gets it from the next one, same attempt",
  tries: ["A", "B", "C", "D", "E"],
  // Claimed after a wake-up; and in the transaction of its enqueue, where the server that is called has the agent too.
  run: (world) =>
    world.together([false, true].map((asked) => killedServer(world, { at: "claim.committed", asked, dialled: true }))),
};
