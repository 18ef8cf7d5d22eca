/**
 * Why a spec does not become true here: an expected ending of a converge,
 * thrown where the cause is known and returned at its edge.
 */
import type { FailureReason } from "../runtime.ts";
import { errorCode } from "./durable.ts";

export class Refusal extends Error {
  override readonly name = "Refusal";
  readonly reason: FailureReason;
  /** Whether the same spec may succeed later without a change. */
  readonly worthRetry: boolean;

  constructor(reason: FailureReason, message: string, worthRetry: boolean) {
    super(message);
    this.reason = reason;
    this.worthRetry = worthRetry;
  }
}

/** The spec asks for what this runtime cannot give. Never approximated. */
export function unsupported(message: string): Refusal {
  return new Refusal("UNSUPPORTED", message, false);
}

/** The spec contradicts itself. */
export function invalid(message: string): Refusal {
  return new Refusal("SPEC_INVALID", message, false);
}

/** The refusal that an error stands for; undefined for a defect. */
export function asRefusal(error: unknown): Refusal | undefined {
  if (error instanceof Refusal) return error;
  const code = errorCode(error);
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new Refusal("DISK_FULL", `no space left for the agent's data folder (${code})`, true);
  }
  return undefined;
}
