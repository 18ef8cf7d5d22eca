/**
 * How a command ends badly: exit codes, and what a person reads.
 *
 * F1: every failure says what happened, where it is known, and the next
 *     command to type; it carries the stable reason.
 */

/** Exit codes, for scripts. In every --help. */
export const exitCodes = {
  done: 0,
  failed: 1,
  usage: 2,
  notInTime: 3,
  notAllowed: 4,
  notReached: 5,
  /** What shells expect of Ctrl-C. */
  interrupted: 130,
} as const;

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** The same in words. */
export const exitCodesHelp = `Exit codes:
  0 done   1 it failed   2 wrong usage   3 not finished in time
  4 not signed in or not allowed   5 server not reached   130 interrupted`;

export type FailureDetails = {
  /** Stable, UPPER_SNAKE; from the server, or our own. */
  reason?: string;
  /** More lines: where, why, what still holds. */
  lines?: readonly string[];
  /** Commands to type next, without the program's name. */
  next?: readonly string[];
  /** The error as the API says it, for `--output json`. */
  api?: Record<string, unknown>;
  cause?: unknown;
};

/** Ends the command with this exit code and text. */
export class Failure extends Error {
  override readonly name = "Failure";
  readonly exitCode: ExitCode;
  readonly details: FailureDetails;

  constructor(exitCode: ExitCode, message: string, details: FailureDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.exitCode = exitCode;
    this.details = details;
  }
}

/** Wrong usage: nothing was asked of any server. */
export function usage(message: string, details: FailureDetails = {}): Failure {
  return new Failure(exitCodes.usage, message, { reason: "USAGE", ...details });
}
