import { expect, test } from "@jest/globals";
import { isProblem, isReason, problem, reasons } from "./errors.ts";

test("a problem carries its reason's code and what the caller needs", () => {
  const error = problem("INVALID_ARGUMENT", "name is too long", {
    violations: [{ field: "cluster.name", description: "at most 63 characters" }],
    metadata: { limit: "63" },
    retryAfterMs: 500,
    cause: new Error("inner"),
  });
  expect(error).toBeInstanceOf(Error);
  expect(error).toMatchObject({
    reason: "INVALID_ARGUMENT",
    code: "invalid_argument",
    message: "name is too long",
    violations: [{ field: "cluster.name", description: "at most 63 characters" }],
    metadata: { limit: "63" },
    retryAfterMs: 500,
  });
});

test("a problem without a message says its reason's summary", () => {
  expect(problem("NOT_FOUND").message).toBe(reasons.NOT_FOUND.summary);
  expect(problem("NOT_FOUND")).toMatchObject({ violations: [], metadata: {}, retryAfterMs: undefined });
});

test("a problem is told from a defect, and by its reason", () => {
  expect(isProblem(problem("NOT_FOUND"))).toBe(true);
  expect(isProblem(problem("NOT_FOUND"), "STALE_ETAG")).toBe(false);
  expect(isProblem(new Error("NOT_FOUND"))).toBe(false);
});

test("reasons are UPPER_SNAKE and their summaries are sentences", () => {
  for (const [reason, { summary }] of Object.entries(reasons)) {
    expect(reason).toMatch(/^[A-Z]+(_[A-Z]+)*$/);
    expect(summary).toMatch(/^[A-Z].*\.$/);
  }
});

test("only a reason of the table is a reason", () => {
  expect(isReason("NOT_FOUND")).toBe(true);
  for (const text of ["", "not_found", "toString", "__proto__"]) expect(isReason(text)).toBe(false);
});
