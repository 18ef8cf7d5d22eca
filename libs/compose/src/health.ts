/** `healthcheck`. */
import type { Healthcheck } from "./model.ts";
import { set, type Reader } from "./reader.ts";
import { integer, durationMs } from "./units.ts";

const testForm = 'Write ["CMD", "program", …], ["CMD-SHELL", "command"], ["NONE"], or a string for the shell.';

/** The health check of a service; undefined where the image's own stands. */
export function readHealthcheck(service: Reader): Healthcheck | undefined {
  const check = service.child("healthcheck");
  if (check === undefined) return undefined;
  const test = readTest(check);
  if (check.flag("disable") || test === "none") return { disabled: true };
  return {
    disabled: false,
    ...set({
      test,
      intervalMs: check.value("interval", durationMs),
      timeoutMs: check.value("timeout", durationMs),
      retries: check.value("retries", (text) => integer(text, 0, 1_000_000)),
      startPeriodMs: check.value("start_period", durationMs),
    }),
  };
}

function readTest(check: Reader): Healthcheck["test"] | "none" {
  const value = check.mapping.entries.get("test");
  if (value === undefined) return undefined;
  const parts = check.texts("test");
  if (value.kind === "scalar")
    return value.value === null || value.value === "" ? undefined : { shell: true, command: parts };
  const [kind, ...rest] = parts;
  if (kind === undefined) return undefined;
  if (kind === "NONE") return "none";
  if (kind === "CMD-SHELL" && rest.length > 0) {
    // A shell takes one command; what follows it are parameters ($0, $1) that nearly nobody means.
    if (rest.length > 1)
      check.warn(
        "VALUE_IGNORED",
        "test",
        `the shell runs only ${JSON.stringify(rest[0])}`,
        "Write the command as one string.",
      );
    return { shell: true, command: rest };
  }
  if (kind === "CMD" && rest.length > 0) return { shell: false, command: rest };
  check.error("VALUE_INVALID", "test", `a test cannot be ${JSON.stringify(parts).slice(0, 80)}`, testForm);
  return undefined;
}
