import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { Rollout_State, StackSchema, StackTarget_State } from "@bowline/contract/stacks";
import { Failure } from "./failure.ts";
import { expectRollout } from "./stack-wait.ts";

test("a rollout that was not healthy in time says what was not, and where its logs are", () => {
  const stack = create(StackSchema, {
    ...{ name: "shop", revision: 1, cluster: "here" },
    rollout: {
      state: Rollout_State.FAILED,
      toRevision: 1,
      reason: "PROGRESS_DEADLINE",
      message: "No instance became healthy.",
    },
    targets: [
      {
        ...{ agentId: "1", agent: "press-1", state: StackTarget_State.DONE },
        services: [
          { service: "db", instances: [{ phase: "RUNNING", health: "HEALTHY" }] },
          { service: "web", instances: [{ phase: "EXITED", exitCode: 3, reason: "ended with exit code 3" }] },
        ],
      },
    ],
  });
  let failure: unknown;
  try {
    expectRollout(stack, stack.rollout);
  } catch (error) {
    failure = error;
  }
  if (!(failure instanceof Failure)) throw new Error("it did not fail");
  expect(failure.details.lines).toContain("press-1 web: exited, ended with exit code 3");
  expect(failure.details.next).toEqual(["stack logs shop web", "stack ps shop"]);
});
