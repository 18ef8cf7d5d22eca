/** The life of a publish against a model: whatever its targets do, it takes only the transitions of the table. */
import { expect, test } from "@jest/globals";
import { commandStates, type CommandState } from "@bowline/db";
import fc from "fast-check";
import { aggregate, type PublishState, publishTransitions, type TargetState, targetStateOf } from "./publish-states.ts";

const states = Object.keys(publishTransitions) as PublishState[];
const targetStates = states.filter((state) => state !== "DRAFT");
const someState = fc.constantFrom(...states);
const someTargets = fc.array(
  fc.constantFrom(...targetStates).map((state) => ({ state: state as TargetState })),
  { maxLength: 5 },
);
const reached = (from: PublishState): readonly PublishState[] => publishTransitions[from];

test("the aggregate stays or takes a transition of the table", () => {
  fc.assert(
    fc.property(someState, someTargets, (before, targets) => {
      const { state } = aggregate(before, targets);
      if (state !== before) expect(reached(before)).toContain(state);
    }),
    { numRuns: 2_000 },
  );
});

test("from any state it settles at once: settling twice is settling once", () => {
  fc.assert(
    fc.property(someState, someTargets, (before, targets) => {
      const { state } = aggregate(before, targets);
      expect(aggregate(state, targets).state).toBe(state);
    }),
    { numRuns: 2_000 },
  );
});

test("a publish is LIVE only when each target was, and UNPUBLISHED only when each is gone", () => {
  fc.assert(
    fc.property(someState, someTargets, (before, targets) => {
      const { state } = aggregate(before, targets);
      if (state === before) return;
      if (state === "LIVE") expect(targets.map((target) => target.state)).not.toContain("FAILED");
      if (state === "LIVE") expect(targets.some((target) => target.state === "LIVE")).toBe(true);
      if (state === "UNPUBLISHED") expect(targets.every((target) => target.state === "UNPUBLISHED")).toBe(true);
    }),
    { numRuns: 2_000 },
  );
});

test("a target that changed the publish is named, unless all is well", () => {
  fc.assert(
    fc.property(someState, someTargets, (before, targets) => {
      const { state, because } = aggregate(before, targets);
      if (state === "LIVE") expect(because).toBeUndefined();
      if (state === "FAILED" && before !== "FAILED") expect(because?.state).toBe("FAILED");
    }),
  );
});

test("LIVE, SUPERSEDED and UNPUBLISHED stay, whatever commands report", () => {
  fc.assert(
    fc.property(
      fc.constantFrom<PublishState>("LIVE", "SUPERSEDED", "UNPUBLISHED", "DRAFT"),
      someTargets,
      (before, all) => {
        expect(aggregate(before, all).state).toBe(before);
      },
    ),
  );
});

test("every state of a command has a state of its target, and ended ones end it", () => {
  for (const [state, { waits }] of Object.entries(commandStates)) {
    const target = targetStateOf(state as CommandState);
    expect(targetStates).toContain(target);
    if (waits === "nothing") expect(["LIVE", "FAILED", "SUPERSEDED"]).toContain(target);
  }
});

/** A publish with targets as the engine moves them: claimed, received, ended, tried again, joined. */
type Step =
  | { kind: "join" }
  | { kind: "command"; target: number; state: CommandState }
  | { kind: "newer" | "unpublish" };
const someStep: fc.Arbitrary<Step> = fc.oneof(
  fc.constant<Step>({ kind: "join" }),
  fc.record({
    kind: fc.constant("command" as const),
    target: fc.nat(3),
    state: fc.constantFrom(...(Object.keys(commandStates) as CommandState[])),
  }),
  fc.constantFrom<Step>({ kind: "newer" }, { kind: "unpublish" }),
);

test("no history of agents, commands, newer publishes and removals leaves the table", () => {
  fc.assert(
    fc.property(fc.array(someStep, { maxLength: 40 }), (steps) => {
      const publish: { state: PublishState } = { state: "PENDING" };
      const targets: { state: TargetState }[] = [];
      const move = (to: PublishState): void => {
        if (to !== publish.state) expect(reached(publish.state)).toContain(to);
        publish.state = to;
      };
      for (const step of steps) {
        const leaving = publish.state === "UNPUBLISHING" || publish.state === "UNPUBLISHED";
        switch (step.kind) {
          case "join":
            if (!leaving) targets.push({ state: "PENDING" });
            break;
          case "newer":
            if (reached(publish.state).includes("SUPERSEDED")) move("SUPERSEDED");
            break;
          case "unpublish":
            if (!reached(publish.state).includes("UNPUBLISHING")) break;
            move("UNPUBLISHING");
            for (const target of targets) target.state = "UNPUBLISHING";
            break;
          case "command": {
            const target = targets[step.target];
            if (target === undefined) break;
            const gone = step.state === "SUCCEEDED" ? "UNPUBLISHED" : "UNPUBLISHING";
            target.state = leaving ? gone : targetStateOf(step.state);
            break;
          }
          default:
            step satisfies never;
        }
        move(aggregate(publish.state, targets).state);
      }
    }),
    { numRuns: 1_000 },
  );
});
