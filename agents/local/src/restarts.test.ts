import { expect, test } from "@jest/globals";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { RestartPolicy, WorkloadSchema } from "@bowline/contract/deployments";
import { decide } from "./restarts.ts";
import { defaultTimes } from "./times.ts";

const workload = (init: MessageInitShape<typeof WorkloadSchema> = {}) =>
  create(WorkloadSchema, { name: "web", ...init });
const ended = (code?: number, ranMs = 10) => ({ reason: "", at: 0, ranMs, ...(code === undefined ? {} : { code }) });

test("the wait doubles from 1 s to 60 s and stays there", () => {
  const waits = Array.from({ length: 9 }, (_, failures) => decide(workload(), ended(1), failures, defaultTimes).waitMs);
  expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60].map((seconds) => seconds * 1000));
  expect(decide(workload(), ended(1), 1e9, defaultTimes).waitMs).toBe(60_000);
});

test("the wait starts anew after 60 s of running", () => {
  expect(decide(workload(), ended(1, 59_999), 7, defaultTimes)).toMatchObject({ failures: 8, waitMs: 60_000 });
  expect(decide(workload(), ended(1, 60_000), 7, defaultTimes)).toMatchObject({ failures: 1, waitMs: 1_000 });
});

test("a policy decides by the exit code; an unknown one is a failure", () => {
  const done = (restartPolicy: RestartPolicy) =>
    [0, 1, undefined].map((code) => decide(workload({ restartPolicy }), ended(code), 0, defaultTimes).done);
  expect(done(RestartPolicy.RESTART_POLICY_UNSPECIFIED)).toEqual([false, false, false]);
  expect(done(RestartPolicy.ALWAYS)).toEqual([false, false, false]);
  expect(done(RestartPolicy.ON_FAILURE)).toEqual([true, false, false]);
  expect(done(RestartPolicy.NEVER)).toEqual([true, true, true]);
});

test("a job is tried again as often as it says, however long it ran", () => {
  const job = workload({ runToCompletion: { retries: 2 }, restartPolicy: RestartPolicy.NEVER });
  const done = [0, 1, 2].map((failures) => decide(job, ended(1, 1e7), failures, defaultTimes).done);
  expect(done).toEqual([false, false, true]);
  expect(decide(job, ended(0), 0, defaultTimes).done).toBe(true);
});
