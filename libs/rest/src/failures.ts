/**
 * Failures as REST answers them: the Connect error's JSON, and beside it the
 * reason, the wrong fields and the request's id, so that nobody has to decode details.
 */
import { create, toBinary, toJson } from "@bufbuild/protobuf";
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { base64Encode } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "@bowline/contract/errors";
import { isProblem } from "@bowline/kernel";
import type { Code as CodeName, Problem, Violation } from "@bowline/kernel";

/** What a REST client reads. `details` is what Connect's clients know: type, base64 value, and the same as JSON. */
export type FailureBody = {
  code: CodeName;
  message: string;
  reason: string;
  fieldViolations?: readonly Violation[];
  details?: readonly { type: string; value: string; debug?: unknown }[];
  requestId: string;
};

export type Failure = { status: number; body: FailureBody; headers: Record<string, string> };

/** Names of the codes, and the HTTP status of each as google.rpc.Code says. */
const codes = {
  [Code.Canceled]: ["canceled", 499],
  [Code.Unknown]: ["unknown", 500],
  [Code.InvalidArgument]: ["invalid_argument", 400],
  [Code.DeadlineExceeded]: ["deadline_exceeded", 504],
  [Code.NotFound]: ["not_found", 404],
  [Code.AlreadyExists]: ["already_exists", 409],
  [Code.PermissionDenied]: ["permission_denied", 403],
  [Code.ResourceExhausted]: ["resource_exhausted", 429],
  [Code.FailedPrecondition]: ["failed_precondition", 400],
  [Code.Aborted]: ["aborted", 409],
  [Code.OutOfRange]: ["out_of_range", 400],
  [Code.Unimplemented]: ["unimplemented", 501],
  [Code.Internal]: ["internal", 500],
  [Code.Unavailable]: ["unavailable", 503],
  [Code.DataLoss]: ["data_loss", 500],
  [Code.Unauthenticated]: ["unauthenticated", 401],
} as const satisfies Record<Code, readonly [CodeName, number]>;

/** Every code that a failure can have. */
export const codeNames: readonly CodeName[] = Object.values(codes).map(([name]) => name);

/** Reasons for which HTTP has a word of its own. */
const statusOfReason: Partial<Record<string, number>> = {
  BODY_TOO_LARGE: 413,
  UNSUPPORTED_MEDIA_TYPE: 415,
  METHOD_NOT_ALLOWED: 405,
  UNKNOWN_METHOD: 404,
};

/** Where nothing says how long to wait. */
const defaultRetryAfterSeconds = 1;

/** The answer to whatever was thrown. What is neither a problem nor a Connect error says nothing about itself. */
export function failureOf(error: unknown, requestId: string): Failure {
  const found = isProblem(error) ? ofProblem(error) : error instanceof ConnectError ? ofConnect(error) : ofDefect();
  const headers: Record<string, string> = {};
  if (found.status === 401) headers["www-authenticate"] = "Bearer";
  if (found.status === 429 || found.status === 503) {
    headers["retry-after"] = String(found.retryAfterSeconds ?? defaultRetryAfterSeconds);
  }
  return { status: found.status, headers, body: { ...found.body, requestId } };
}

type Found = { status: number; retryAfterSeconds: number | undefined; body: Omit<FailureBody, "requestId"> };

/** A problem of REST itself; it gets the same details that the server's interceptors give. */
function ofProblem(found: Problem): Found {
  const [, code] = Object.entries(codes).find(([, [name]]) => name === found.code) ?? [];
  const info = create(ErrorInfoSchema, { reason: found.reason, domain: "bowline", metadata: { ...found.metadata } });
  const details = [detail(ErrorInfoSchema, info)];
  if (found.violations.length > 0) {
    const fieldViolations = found.violations.map(({ field, description }) => ({ field, description }));
    details.push(detail(BadRequestSchema, create(BadRequestSchema, { fieldViolations })));
  }
  return {
    status: statusOfReason[found.reason] ?? code?.[1] ?? 500,
    retryAfterSeconds: found.retryAfterMs === undefined ? undefined : Math.ceil(found.retryAfterMs / 1000),
    body: {
      code: found.code,
      message: found.message,
      reason: found.reason,
      ...(found.violations.length > 0 && { fieldViolations: found.violations }),
      details,
    },
  };
}

function ofConnect(error: ConnectError): Found {
  const [code, status] = codes[error.code];
  const reason = error.findDetails(ErrorInfoSchema)[0]?.reason ?? code.toUpperCase();
  const violations = error
    .findDetails(BadRequestSchema)
    .flatMap(({ fieldViolations }) => fieldViolations.map(({ field, description }) => ({ field, description })));
  const details = error.details.map((one) =>
    "desc" in one
      ? detail(one.desc, create(one.desc, one.value))
      : { type: one.type, value: base64(one.value), ...(one.debug !== undefined && { debug: one.debug }) },
  );
  return {
    status: statusOfReason[reason] ?? status,
    retryAfterSeconds: retryAfterOf(error),
    body: {
      code,
      message: error.rawMessage,
      reason,
      ...(violations.length > 0 && { fieldViolations: violations }),
      ...(details.length > 0 && { details }),
    },
  };
}

function ofDefect(): Found {
  return {
    status: 500,
    retryAfterSeconds: undefined,
    body: {
      code: "internal",
      message: "The server met a defect. Its log has the details under the request's id.",
      reason: "INTERNAL",
    },
  };
}

function retryAfterOf(error: ConnectError): number | undefined {
  const header = error.metadata.get("retry-after");
  if (header !== null && /^\d{1,9}$/.test(header)) return Number(header);
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  if (delay === undefined) return undefined;
  return Number(delay.seconds) + (delay.nanos > 0 ? 1 : 0);
}

function detail(desc: DescMessage, value: Message): { type: string; value: string; debug?: unknown } {
  return { type: desc.typeName, value: base64(toBinary(desc, value)), debug: toJson(desc, value) };
}

/** Connect writes details without padding. */
function base64(bytes: Uint8Array): string {
  return base64Encode(bytes, "std_raw");
}
