/** The steps of `doctor`, and what became of each. */

/** In the order in which they are taken. */
export const doctorSteps = ["dns", "tcp", "proxy", "tls", "http2", "clock", "token", "version"] as const;
export type DoctorStep = (typeof doctorSteps)[number];

/** What became of a step. */
export type StepResult =
  | { step: DoctorStep; state: "ok" | "not-needed"; detail: string; tookMs?: number }
  | { step: DoctorStep; state: "failed"; reason: string; detail: string; remedy: string }
  | { step: DoctorStep; state: "not-reached" };

export type Failure = { reason: string; detail: string; remedy: string };
/** What was found, by step; a step that is missing was not reached. */
export type Found = Map<DoctorStep, StepResult>;

export const failed = (found: Found, step: DoctorStep, failure: Failure): void =>
  void found.set(step, { step, state: "failed", ...failure });
export const ok = (found: Found, step: DoctorStep, detail: string, tookMs?: number): void =>
  void found.set(step, { step, state: "ok", detail, ...(tookMs === undefined ? {} : { tookMs: Math.round(tookMs) }) });
