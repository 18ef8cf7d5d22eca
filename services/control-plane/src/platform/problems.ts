/** The one place where problems become Connect errors; gRPC, Connect and REST answer from these. */
import { types } from "node:util";
import { create } from "@bufbuild/protobuf";
import { DurationSchema, durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "@bowline/contract/errors";
import { isProblem, type Problem, problem, type Code as ProblemCode } from "@bowline/kernel";

const codes = {
  canceled: Code.Canceled,
  unknown: Code.Unknown,
  invalid_argument: Code.InvalidArgument,
  deadline_exceeded: Code.DeadlineExceeded,
  not_found: Code.NotFound,
  already_exists: Code.AlreadyExists,
  permission_denied: Code.PermissionDenied,
  resource_exhausted: Code.ResourceExhausted,
  failed_precondition: Code.FailedPrecondition,
  aborted: Code.Aborted,
  out_of_range: Code.OutOfRange,
  unimplemented: Code.Unimplemented,
  internal: Code.Internal,
  unavailable: Code.Unavailable,
  data_loss: Code.DataLoss,
  unauthenticated: Code.Unauthenticated,
} as const satisfies Record<ProblemCode, Code>;

/** `domain` of google.rpc.ErrorInfo. */
export const errorDomain = "bowline";

/** A problem as Connect carries it: ErrorInfo, BadRequest and RetryInfo in its details. */
export function connectErrorOf(found: Problem): ConnectError {
  const error = new ConnectError(found.message, codes[found.code], undefined, undefined, found);
  error.details.push({
    desc: ErrorInfoSchema,
    value: create(ErrorInfoSchema, { reason: found.reason, domain: errorDomain, metadata: { ...found.metadata } }),
  });
  if (found.violations.length > 0) {
    const fieldViolations = found.violations.map(({ field, description }) => ({ field, description }));
    error.details.push({ desc: BadRequestSchema, value: create(BadRequestSchema, { fieldViolations }) });
  }
  if (found.retryAfterMs !== undefined) {
    const retryDelay = create(DurationSchema, durationFromMs(found.retryAfterMs));
    error.details.push({ desc: RetryInfoSchema, value: create(RetryInfoSchema, { retryDelay }) });
    error.metadata.set("retry-after", String(Math.ceil(found.retryAfterMs / 1000)));
  }
  return error;
}

/** SQLSTATE classes that say that the database is not there, and the same from the driver. */
const awayStates = /^(08|57P|53)/;
const awayCodes = new Set(["ECONNREFUSED", "ECONNRESET", "ENOENT", "EPIPE", "ETIMEDOUT", "ENOTFOUND"]);

/**
 * Deadlock, serialisation failure, a lock that was waited for too long: of work that was repeated already, or beside a
 * migration of a newer replica.
 */
const undone = new Set(["40P01", "40001", "55P03"]);

/** SQLSTATEs of a NUL in text and in jsonb. */
const unstorable = new Set(["22021", "22P05"]);

/** The problem behind whatever was thrown; a defect becomes INTERNAL and keeps its cause for the log. */
export function problemOf(error: unknown): Problem {
  if (isProblem(error)) return error;
  if (isDatabaseAway(error)) {
    return problem("DATABASE_UNAVAILABLE", "The database does not answer. Repeat the request in a moment.", {
      retryAfterMs: 2_000,
      cause: error,
    });
  }
  const state = stateOf(error);
  if (undone.has(state)) {
    return problem("DATABASE_UNAVAILABLE", "The database undid this for other work. Repeat the request in a moment.", {
      retryAfterMs: 1_000,
      cause: error,
    });
  }
  if (unstorable.has(state)) {
    return problem("INVALID_ARGUMENT", "A text of the request holds a character that cannot be stored (NUL).");
  }
  return problem("INTERNAL", "The server met a defect. Its log has the details under the request's id.", {
    cause: error,
  });
}

function stateOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}

/** The database undid this for other work, and nothing of it is there. */
export function isUndone(error: unknown): boolean {
  return undone.has(stateOf(error));
}

export function isDatabaseAway(error: unknown): boolean {
  if (!types.isNativeError(error)) return false; // also one of another realm, as Node's own are under a test runner
  const code = "code" in error && typeof error.code === "string" ? error.code : "";
  if (awayStates.test(code) || awayCodes.has(code)) return true;
  return /Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error/i.test(
    error.message,
  );
}

/** The SQLSTATE of a unique violation, and which index it was. */
export function uniqueViolation(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error) || error.code !== "23505") return undefined;
  return "constraint" in error && typeof error.constraint === "string" ? error.constraint : "";
}
