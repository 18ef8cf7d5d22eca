/** What `doctor` found, for people and for programs. */
import type { CommandEnd } from "./command-end.ts";
import type { Diagnosis } from "./doctor.ts";
import { type DoctorStep, doctorSteps, type StepResult } from "./doctor-steps.ts";

const names: Readonly<Record<DoctorStep, string>> = {
  dns: "DNS",
  tcp: "TCP",
  proxy: "proxy",
  tls: "TLS",
  http2: "HTTP/2",
  clock: "clock",
  token: "token",
  version: "version",
};

/** Exit codes: 0 all is well; 4 the server refuses token or key; 5 the server is not reached; 1 anything else. */
export function reportOf({ server, steps, answered }: Diagnosis): CommandEnd {
  const failure = steps.find((step) => step.state === "failed");
  const left = steps.filter(({ state }) => state === "not-reached").map(({ step }) => names[step]);
  const lines = [
    ...steps.filter(({ state }) => state !== "not-reached").flatMap(lineOf),
    ...(left.length === 0 ? [] : [`  – ${left.join(", ")}: not reached`]),
    failure === undefined ? `All is well: ${server}` : failure.reason,
  ];
  const told = failure && {
    failed: failure.step,
    reason: failure.reason,
    message: failure.detail,
    remedy: failure.remedy,
  };
  return {
    exitCode: failure === undefined ? 0 : failure.step === "token" ? 4 : answered ? 1 : 5,
    text: lines.join("\n"),
    json: { ok: failure === undefined, server, ...told, steps },
  };
}

const nameWidth = Math.max(...doctorSteps.map((step) => names[step].length));
const detailWidth = 60;

function lineOf(result: StepResult): string[] {
  if (result.state === "not-reached") return [];
  const mark = { ok: "✓", "not-needed": "–", failed: "✗" }[result.state];
  const name = names[result.step].padEnd(nameWidth);
  if (result.state === "failed") {
    const indent = " ".repeat(nameWidth + 6);
    return [`  ${mark} ${name}  ${result.detail}`, ...(result.remedy === "" ? [] : [`${indent}${result.remedy}`])];
  }
  const took = result.tookMs === undefined ? "" : `${String(result.tookMs).padStart(6)} ms`;
  return [`  ${mark} ${name}  ${took === "" ? result.detail : result.detail.padEnd(detailWidth) + took}`];
}
