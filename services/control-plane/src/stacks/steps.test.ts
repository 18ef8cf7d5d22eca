import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { nextSteps, type StepRollout, type Steps, type StepTarget } from "./steps.ts";

const at = (seconds: number): Date => new Date(1_000_000 + seconds * 1000);

const rollout: StepRollout = {
  paused: false,
  more: false,
  maxParallel: 1,
  minHealthyMs: 10_000,
  healthyDeadlineMs: Infinity,
  progressDeadlineMs: 600_000,
  progressAt: at(0),
};

function target(agentId: string, more: Partial<StepTarget> = {}): StepTarget {
  return {
    ...{ agentId, current: false, leaves: false, state: "WAITING", online: true },
    ...{ healthySince: undefined, untouched: false, begunAt: at(0), inconclusive: false },
    ...more,
  };
}

const working = { current: true, state: "APPLYING" } as const;
const done = (since: number) => ({ current: true, state: "DONE", healthySince: at(since) }) as const;

test("one agent changes after the other, and the next begins when the one before was healthy for long enough", () => {
  expect(nextSteps(rollout, [target("a"), target("b")], at(0)).begin).toEqual(["a"]);
  expect(nextSteps(rollout, [target("a", working), target("b")], at(1)).begin).toEqual([]);
  const young = nextSteps(rollout, [target("a", done(5)), target("b")], at(14));
  expect(young).toMatchObject({ begin: [], done: 0, lookAt: at(15) });
  expect(nextSteps(rollout, [target("a", done(5)), target("b")], at(15))).toMatchObject({ begin: ["b"], done: 1 });
});

test("what a rollout does not change counts at once", () => {
  const unchanged = target("a", { current: true, state: "DONE", untouched: true });
  expect(nextSteps(rollout, [unchanged, target("b")], at(0))).toMatchObject({ begin: ["b"], done: 1 });
});

test("an agent that is away holds no place, and gets its command when all others are done", () => {
  const away = target("b", { online: false });
  expect(nextSteps(rollout, [target("a", working), away, target("c")], at(0)).begin).toEqual([]);
  expect(nextSteps(rollout, [target("a", done(0)), away, target("c", done(0))], at(20))).toEqual({
    begin: ["b"],
    done: 2,
    end: { state: "DONE" },
    lookAt: undefined,
  });
});

test("agents that lose everything are last", () => {
  const leaves = target("a", { leaves: true, state: "DONE" });
  expect(nextSteps(rollout, [leaves, target("b")], at(0)).begin).toEqual(["b"]);
  expect(nextSteps(rollout, [leaves, target("b", done(0))], at(20))).toMatchObject({
    begin: ["a"],
    end: { state: "DONE" },
  });
});

test("a failure ends it, and nothing begins after one", () => {
  const failed = target("a", { current: true, state: "TARGET_FAILED" });
  expect(nextSteps({ ...rollout, maxParallel: 3 }, [failed, target("b"), target("c")], at(0))).toMatchObject({
    begin: [],
    end: { state: "FAILED", reason: "TARGET_FAILED", agentId: "a" },
  });
});

test("no agent that becomes healthy in time is a failure; a pause stops the clock", () => {
  const late = [target("a", working)];
  expect(nextSteps(rollout, late, at(599)).end).toBeUndefined();
  expect(nextSteps(rollout, late, at(600)).end).toMatchObject({ reason: "PROGRESS_DEADLINE", agentId: "a" });
  expect(nextSteps({ ...rollout, paused: true }, late, at(6_000)).end).toBeUndefined();
});

test("an agent that is not healthy in its time is a failure; what is healthy and young is not", () => {
  const hurried = { ...rollout, healthyDeadlineMs: 60_000 };
  expect(nextSteps(hurried, [target("a", working)], at(59))).toMatchObject({ end: undefined, lookAt: at(60) });
  expect(nextSteps(hurried, [target("a", working)], at(60)).end).toEqual({
    ...{ state: "FAILED", reason: "HEALTHY_DEADLINE", agentId: "a" },
  });
  expect(nextSteps(hurried, [target("a", done(55))], at(61))).toMatchObject({ end: undefined, lookAt: at(65) });
  expect(nextSteps(hurried, [target("a", { ...working, online: false }), target("b")], at(99)).end).toBeUndefined();
});

test("in a phase that others follow, who is away or leaves is left for the last one", () => {
  const others = [
    target("b", { online: false }),
    target("c", { leaves: true, current: true, untouched: true, state: "DONE" }),
  ];
  expect(nextSteps({ ...rollout, more: true }, [target("a", done(0)), ...others], at(10))).toMatchObject({
    begin: [],
    done: 1, // of those that stay
    end: { state: "DONE" },
  });
});

test("nothing goes on from what a gate could not tell of, unless it is paused already", () => {
  const unclear = target("a", { ...done(0), inconclusive: true });
  expect(nextSteps(rollout, [unclear, target("b")], at(20))).toMatchObject({
    begin: [],
    end: { state: "PAUSED", reason: "GATE_INCONCLUSIVE", agentId: "a" },
  });
  expect(nextSteps({ ...rollout, paused: true }, [unclear, target("b")], at(20)).end).toBeUndefined();
});

test("whatever happens at agents, never more than may change at one time, each begins once, and it ends", () => {
  const script = fc.array(fc.constantFrom("succeeds", "succeeds", "goes away", "comes back"), { maxLength: 60 });
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 8 }),
      script,
      (maxParallel, count, events) => {
        const targets = Array.from({ length: count }, (_, index) => target(`agent-${index}`));
        const begun: string[] = [];
        let steps: Steps | undefined;
        let seconds = 0;
        const look = (): void => {
          steps = nextSteps({ ...rollout, maxParallel, progressAt: at(seconds) }, targets, at(seconds));
          for (const agentId of steps.begin) {
            begun.push(agentId);
            const one = targets.find((other) => other.agentId === agentId);
            if (one !== undefined) Object.assign(one, working);
          }
          const changing = targets.filter((one) => one.online && one.current && one.state === "APPLYING");
          if (steps.end === undefined) expect(changing.length).toBeLessThanOrEqual(maxParallel + cameBack);
        };
        let cameBack = 0;
        for (const event of [...events, ...targets.map(() => "succeeds")]) {
          look();
          if (steps?.end !== undefined) break;
          seconds += 20;
          const open = targets.find((one) => one.state === "APPLYING" && one.online);
          if (event === "succeeds" && open !== undefined) Object.assign(open, done(seconds - 15));
          const away = targets.find((one) => !one.online);
          if (event === "goes away") Object.assign(targets.find((one) => one.online) ?? {}, { online: false });
          if (event === "comes back" && away !== undefined) {
            away.online = true;
            cameBack += away.state === "APPLYING" ? 1 : 0; // what had begun there goes on
          }
        }
        expect(new Set(begun).size).toBe(begun.length);
      },
    ),
  );
});
