/** Defects that the simulation must find: each breaks one rule of the engine or of what the agent stands on. */
import { type CommandEvent, type CommandFacts, step } from "../../services/control-plane/src/commands/index.ts";
import type { Invariant } from "./checker.ts";
import type { Options } from "./history.ts";

export interface Mutant {
  options: Options;
  /** Found only in few histories: looked for where there is time (tests/faults). */
  rare?: boolean;
  /** What is violated then; any one of them. */
  breaks: readonly Invariant[];
}

/** The real step, after a change of what it is told. */
function after(change: (facts: CommandFacts, event: CommandEvent) => CommandEvent): typeof step {
  return (facts, event) => step(facts, change(facts, event));
}

export const mutants: Record<string, Mutant> = {
  "a message of an older attempt is taken for the newest": {
    rare: true,
    options: {
      rules: {
        step: after((facts, event) =>
          "fence" in event ? { ...event, fence: { ...event.fence, attempt: facts.attempt } } : event,
        ),
      },
    },
    breaks: ["E"],
  },
  "a message of an ended session is taken for the newest one's": {
    rare: true,
    options: {
      rules: {
        step: after((facts, event) =>
          "fence" in event
            ? { ...event, fence: { ...event.fence, current: true, epoch: facts.boundEpoch ?? event.fence.epoch } }
            : event,
        ),
      },
    },
    breaks: ["A", "E", "F"],
  },
  "a cancel that a person asked for is followed by a retry": {
    options: {
      rules: {
        step: (facts, event) =>
          step({ ...facts, cancelReason: facts.cancelReason === null ? null : "RUN_TIMEOUT" }, event),
      },
    },
    breaks: ["G"],
  },
  "a claim needs no session that serves": {
    rare: true,
    options: { rules: { claimNeedsSession: false } },
    breaks: ["E"],
  },
  "a claim adds nothing to the attempt": { options: { rules: { claimCountsAttempts: false } }, breaks: ["E"] },
  "the end of a session leaves its commands bound": { options: { rules: { endUnbinds: false } }, breaks: ["E"] },
  "an enqueue does not lock the deployment": {
    rare: true,
    options: { rules: { enqueueLocks: false } },
    breaks: ["C", "D"],
  },
  "an enqueue supersedes nothing": { options: { rules: { enqueueSupersedes: false } }, breaks: ["C"] },
  "a result is applied twice": {
    rare: true,
    options: {
      rules: {
        endsOnce: false,
        step: (facts, event) =>
          event.kind === "succeeded" && facts.state === "SUCCEEDED"
            ? step({ ...facts, state: "RUNNING", boundEpoch: event.fence.epoch }, event)
            : step(facts, event),
      },
    },
    breaks: ["D", "E"],
  },
  "the end of a command promotes nothing": { options: { rules: { promotes: false } }, breaks: ["C"] },
  "what a sweep saw is not looked at again": {
    rare: true,
    options: { rules: { sweepLooksAgain: false } },
    breaks: ["E"],
  },
  "a wish is answered before its commit": { options: { rules: { answersAfterCommit: false } }, breaks: ["A"] },
  "the agent's disk says that it has synced before it has": {
    rare: true,
    options: { agentDefect: "disk-lies" },
    breaks: ["A", "B", "C", "F", "H"],
  },
  "the runtime makes again what it has": { options: { agentDefect: "no-adoption" }, breaks: ["B"] },
};
