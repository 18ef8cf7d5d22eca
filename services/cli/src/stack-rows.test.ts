import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import {
  PlannedChange_Action,
  PlannedChangeSchema,
  Rollout_State,
  RolloutSchema,
  StackSchema,
  StackTarget_State as State,
} from "@bowline/contract/stacks";
import { keptBy, rolloutTitle, stackRows } from "./stack-rows.ts";
import { clockTime } from "./text.ts";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";

const since = "2026-11-22T08:40:00.000Z";
const running = (service: string, generation = 2) => ({
  ...{ service, count: 1 },
  instances: [{ workload: service, phase: "RUNNING", health: "HEALTHY", generation }],
});
const stack = create(StackSchema, {
  ...{ name: "shop", revision: 12, stableRevision: 11, cluster: "factory-7" },
  rollout: { state: Rollout_State.RUNNING, policy: { maxParallel: 0 } },
  targets: [
    {
      ...{ agentId: "1", agent: "press-1", state: State.APPLYING, generation: 2 },
      services: [
        { service: "db", instances: [] },
        { service: "web", progressPhase: "PULLING", progressPercent: 42, progressMessage: "31 of 74 MB" },
      ],
    },
    { agentId: "2", agent: "press-2", state: State.WAITING, services: [{ service: "web" }] },
    {
      ...{
        agentId: "3",
        agent: "press-3",
        state: State.PENDING,
        reason: "AGENT_OFFLINE",
        services: [{ service: "web" }],
      },
      message: `offline since ${since}; it follows when the agent returns.`,
    },
  ],
});
const kept = keptBy([
  create(PlannedChangeSchema, { agentId: "1", service: "db", action: PlannedChange_Action.KEEP }),
  create(PlannedChangeSchema, { agentId: "1", service: "web", action: PlannedChange_Action.REPLACE }),
]);

test("a rollout is told per host and service: what is pulled, what stays, who waits for whom, who is away since when", () => {
  expect(rolloutTitle(stack)).toBe("shop r12 to factory-7: 3 hosts, rolling, 1 at a time");
  const at = clockTime(timestampFromDate(new Date(since)));
  expect(stackRows(stack, kept).map(({ cells }) => cells)).toEqual([
    ["press-1", "db", "unchanged"],
    ["press-1", "web", "pulling 42 %, 31 of 74 MB"],
    ["press-2", "web", "waits for press-1"],
    ["press-3", "", `offline since ${at}, follows when it returns`],
  ]);
});

test("what a host still owes of a removal says what is in its way", () => {
  const target = { agentId: "1", agent: "press-1", state: State.REMOVING, services: [{ service: "web" }] };
  const shown = (more: object) => stackRows(create(StackSchema, { name: "shop", targets: [{ ...target, ...more }] }));
  expect(shown({}).map(({ cells }) => cells)).toEqual([["press-1", "", "is being removed"]]);
  const message = "error while removing network: it has active endpoints\nmore";
  expect(shown({ reason: "START_FAILED", message }).map(({ cells }) => cells)).toEqual([
    ["press-1", "", "is being removed, START_FAILED: error while removing network: it has active endpoints"],
  ]);
});

test("of what is not healthy yet one line says why, without the log that follows", () => {
  const service = { service: "web", progressPhase: "STARTING", progressPercent: 25 };
  const late = create(StackSchema, {
    targets: [
      {
        ...{ agentId: "1", agent: "press-1", state: State.APPLYING },
        services: [
          { ...service, progressMessage: "is not healthy yet: exit code 1: no till; it wrote:\nline 1\nline 2" },
        ],
      },
    ],
  });
  expect(stackRows(late).map(({ cells }) => cells)).toEqual([
    ["press-1", "web", "starting 25 %, is not healthy yet: exit code 1: no till"],
  ]);
});

test("a pull that goes on is the same line to a log: only what is being done counts there", () => {
  const marks = (percent: number) => {
    const later = create(StackSchema, { ...stack, targets: stack.targets.map((one) => ({ ...one })) });
    const web = later.targets[0]?.services[1];
    if (web !== undefined) web.progressPercent = percent;
    return stackRows(later, kept).map(({ mark }) => mark);
  };
  expect(marks(42)).toEqual(marks(43));
});

test("a host of which an earlier revision runs waits for its turn, and for whom that became the last", () => {
  const next = create(StackSchema, {
    ...{ revision: 12, rollout: create(RolloutSchema, { state: Rollout_State.RUNNING, toRevision: 12 }) },
    targets: [
      { agentId: "1", agent: "press-1", state: State.DONE, revision: 12, services: [running("web")] },
      {
        ...{ agentId: "2", agent: "press-2", state: State.DONE, revision: 11 },
        services: [running("web"), running("db")],
      },
    ],
  });
  const others = new Set(["2 db"]);
  expect(stackRows(next, others).map(({ cells }) => cells[2])).toEqual([
    "running, healthy",
    "waits until press-1 was healthy for 10 s",
    "unchanged",
  ]);
  const over = create(StackSchema, { ...next, rollout: create(RolloutSchema, { state: Rollout_State.SUCCEEDED }) });
  expect(stackRows(over).map(({ cells }) => cells[2])).toEqual(Array(3).fill("running, healthy"));
});

test("a paused rollout says so where somebody waits", () => {
  const paused = create(StackSchema, { ...stack, rollout: create(RolloutSchema, { state: Rollout_State.PAUSED }) });
  expect(stackRows(paused)[2]?.cells).toEqual(["press-2", "web", "waits: the rollout is paused"]);
});

test("a failure says why, with the last log lines, and what of which revision still runs", () => {
  const failed = create(StackSchema, {
    ...{ name: "shop", revision: 12, stableRevision: 11 },
    targets: [
      {
        ...{ agentId: "1", agent: "press-1", state: State.TARGET_FAILED, generation: 3, reason: "UNHEALTHY" },
        message: "web: exit code 1\nError: no database\n",
        services: [running("db"), { service: "web", instances: [{ workload: "web", phase: "EXITED", exitCode: 1 }] }],
      },
    ],
  });
  expect(stackRows(failed, new Set()).map(({ cells }) => cells[2])).toEqual(["FAILED  with web", "FAILED  UNHEALTHY"]);
  const rows = stackRows(failed, kept);
  expect(rows.map(({ cells }) => cells[2])).toEqual(["unchanged", "FAILED  UNHEALTHY"]);
  expect(rows.map(({ below = [] }) => below)).toEqual([
    [],
    ["web: exit code 1", "Error: no database", "still runs: db (r11)"],
  ]);
});

test("what is tried again says why in a line, by the service that failed; others wait for it", () => {
  const again = create(StackSchema, {
    targets: [
      {
        ...{ agentId: "1", agent: "press-1", state: State.PENDING, reason: "START_FAILED" },
        message: "workload web--green (instance 1) ended with exit code 1; it wrote:\nError: no database\nat line 3",
        services: [{ service: "web" }, { service: "worker" }],
      },
    ],
  });
  expect(stackRows(again).map(({ cells, below }) => [cells[2], below])).toEqual([
    ["START_FAILED: workload web--green (instance 1) ended with exit code 1", []],
    ["waits for web", undefined],
  ]);
});

test("what runs is counted by how it is; a stack without hosts says why", () => {
  const done = create(StackSchema, {
    targets: [
      {
        ...{ agentId: "1", agent: "a", state: State.DONE },
        services: [
          {
            ...{ service: "web", count: 3 },
            instances: [
              { phase: "RUNNING", health: "HEALTHY", exitCode: 143 },
              { phase: "RUNNING", health: "HEALTHY" },
              { phase: "EXITED", health: "UNKNOWN", exitCode: 0, reason: "exited" },
            ],
          },
        ],
      },
    ],
  });
  expect(stackRows(done)[0]?.cells).toEqual(["a", "web", "2 running, healthy; 1 exited, exit code 0"]);
  const none = create(StackSchema, { reason: "NO_AGENT", message: "It follows when one enrols." });
  expect(stackRows(none)).toEqual([{ key: "", cells: ["NO_AGENT", "It follows when one enrols."] }]);
});
