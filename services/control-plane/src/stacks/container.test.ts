import { expect, test } from "@jest/globals";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { create } from "@bufbuild/protobuf";
import { HealthCheckSchema } from "@bowline/contract/deployments";
import { healthCheckOf } from "./container.ts";

const check = (given: Parameters<typeof healthCheckOf>[0]) => {
  const { interval, timeout, retries, probe } = create(HealthCheckSchema, healthCheckOf(given));
  const ms = (span: typeof interval) => (span === undefined ? undefined : durationMs(span));
  return { intervalMs: ms(interval), timeoutMs: ms(timeout), retries, kind: probe.case };
};

test("a check with a test has the times of the Compose specification where it says none", () => {
  const given = { disabled: false, test: { shell: true, command: ["true"] } };
  expect(check(given)).toEqual({ intervalMs: 30_000, timeoutMs: 30_000, retries: 3, kind: "exec" });
  expect(check({ ...given, intervalMs: 1_000, retries: 5 })).toEqual({
    ...{ intervalMs: 1_000, timeoutMs: 30_000, retries: 5, kind: "exec" },
  });
});

test("one without a test says nothing of times that the image's own check says", () => {
  expect(check({ disabled: false, intervalMs: 1_000 })).toEqual({
    ...{ intervalMs: 1_000, timeoutMs: undefined, retries: 0, kind: undefined },
  });
});
