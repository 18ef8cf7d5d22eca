/** What the server, or the way to it, said: as a Failure with an exit code and the next command. */
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "@bowline/contract/errors";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { type DialError, dialErrorOf } from "@bowline/dial";
import { exitCodes, Failure } from "./failure.ts";
import type { ExitCode } from "./failure.ts";
import { plain, span } from "./text.ts";

/** A wrong field, as the server names it. */
export type FieldViolation = { field: string; description: string };

/** An error of the API, taken apart. */
export type ApiError = {
  code: string;
  message: string;
  /** Empty where no server of ours said it. */
  reason: string;
  violations: FieldViolation[];
  requestId: string;
  retryAfterMs: number | undefined;
};

/** What helps against a reason: commands, without the program's name. */
const remedies: Record<string, { lines?: readonly string[]; next?: readonly string[] }> = {
  UNAUTHENTICATED: { next: ["login <url> --token-file <file>"] },
  TOKEN_EXPIRED: { next: ["login <url> --token-file <file>"] },
  PERMISSION_DENIED: { lines: ["Ask an operator for a service account with a role that may."], next: ["status"] },
  STALE_ETAG: { lines: ["Nothing was changed."], next: ["the same command again, after a look at what changed"] },
  CLUSTER_NOT_EMPTY: { lines: ["Nothing was deleted."], next: ["cluster delete <name> --cascade", "agent list"] },
  CLUSTER_NOT_GRANTED: { lines: ["An operator can grant it."], next: ["cluster grant <cluster> <organisation>"] },
  CLUSTER_INACTIVE: { next: ["cluster update <name> --active"] },
  NO_AGENT: { next: ["token create --cluster <name>", "agent list"] },
  ROUTE_CONFLICT: { lines: ["Nothing was published; what was live serves on."] },
  PRIVATE_BACKEND: {
    lines: ["Nothing was published; what was live serves on.", "An operator can allow it:"],
    next: ["cluster update <name> --allow-private-backends"],
  },
  NOT_NEWEST_PUBLISH: { next: ["publish list"] },
  NO_DEFAULT_CLUSTER: { next: ["cluster list", "the same command with --to <cluster>"] },
  ROLLOUT_NOT_PROMOTABLE: { next: ["stack rollout get <rollout>", "stack rollout promote <rollout> --full"] },
  ROLLOUT_ENDED: { next: ["stack events <stack>", "stack rollback <stack> --to <revision>"] },
  COMMAND_ENDED: { next: ["command retry <id>"] },
  REMOVAL_NOT_CANCELLABLE: { next: ["command watch <id>"] },
  NEWER_GENERATION: { lines: ["Only the newest wish is worth a retry."], next: ["command list"] },
  CURSOR_EXPIRED: { next: ["the same command again"] },
  AGENT_CONFLICT: { next: ["agent get <name>", "agent release <name>"] },
  AGENT_NOT_REVOKED: { next: ["agent revoke <name>", "agent retire <name>"] },
  AGENT_NOT_EMPTY: { lines: ["Where its host is gone for good:"], next: ["agent retire <name>"] },
  AGENT_ONLINE: { next: ["agent revoke <name>", "agent retire <name> --force"] },
};

/** Takes an error of the API apart; undefined for anything else. */
export function apiError(error: unknown): ApiError | undefined {
  if (!(error instanceof ConnectError)) return undefined;
  const [info] = error.findDetails(ErrorInfoSchema);
  const [retry] = error.findDetails(RetryInfoSchema);
  return {
    code: Code[error.code].replace(/(?!^)[A-Z]/g, (letter) => `_${letter}`).toLowerCase(),
    message: plain(error.rawMessage),
    reason: info?.reason ?? "",
    violations: error
      .findDetails(BadRequestSchema)
      .flatMap((detail) => detail.fieldViolations)
      .map(({ field, description }) => ({ field, description: plain(description) })),
    requestId: plain(error.metadata.get("x-request-id") ?? ""),
    retryAfterMs: retry?.retryDelay === undefined ? undefined : durationMs(retry.retryDelay),
  };
}

/** Any error on its way to a person. What is not expected keeps its stack. */
export function asFailure(error: unknown, where: string, interrupted: boolean): Failure {
  if (error instanceof Failure) return error;
  if (interrupted) return new Failure(exitCodes.interrupted, "Interrupted.", { reason: "INTERRUPTED" });
  const api = apiError(error);
  if (api === undefined) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return new Failure(exitCodes.failed, `a defect of this program: ${text}`, { reason: "INTERNAL", cause: error });
  }
  return api.reason === "" ? fromTheWay(api, error, where) : fromServer(api, error, where);
}

function fromServer(api: ApiError, error: unknown, where: string): Failure {
  const remedy = api.reason === "NOT_FOUND" ? lookFor(api.message) : remedies[api.reason];
  const told = api.violations
    .map(({ field, description }) => (field === "" ? description : `${field}: ${description}`))
    .filter((line) => line !== api.message); // of a single one the message says the same
  const lines = [
    ...told,
    ...(remedy?.lines ?? []),
    ...(api.retryAfterMs === undefined ? [] : [`It may work in ${span(Math.max(1_000, api.retryAfterMs))}.`]),
    `Said by ${where}${api.requestId === "" ? "" : `, request ${api.requestId}`}.`,
  ];
  return new Failure(exitCodeOf(api), sentence(api.message), {
    reason: api.reason,
    lines,
    next: remedy?.next,
    api: { ...api },
    cause: error,
  });
}

/** Where the names are of what is not there. */
function lookFor(message: string): { lines?: readonly string[]; next: readonly string[] } | undefined {
  const [, stack, cluster, revision] =
    /^(?:There is no (?:(stack)|(cluster)) |The stack has no (revision) )/.exec(message) ?? [];
  if (stack !== undefined) return { next: ["stack ls"] };
  if (cluster !== undefined) return { next: ["cluster list"] };
  return revision === undefined ? undefined : { next: ["stack history <stack>"] };
}

/** No reason: it wasn't our server that spoke, or it never did. */
function fromTheWay(api: ApiError, error: unknown, where: string): Failure {
  const unreached = dialErrorOf(error);
  if (unreached !== undefined) return notReached(api, unreached, where);
  const network = networkError(error);
  const effect = network?.sent === false ? "Nothing was sent." : "Whether the request had an effect is not known.";
  const timedOut = api.code === "deadline_exceeded";
  if (network === undefined && !timedOut && api.code !== "unavailable") {
    return new Failure(exitCodeOf(api), sentence(api.message || api.code), {
      reason: api.code.toUpperCase(),
      lines: [`Said by ${where}. It does not answer like a Bowline server; something between may answer instead.`],
      api: { ...api },
      cause: error,
    });
  }
  const why = network?.words ?? (timedOut ? "no answer in time" : api.message);
  return new Failure(exitCodes.notReached, `The server is not reached: ${why}.`, {
    reason: "SERVER_NOT_REACHED",
    lines: [`It was looked for at ${where}.`, effect],
    next: ["server start", "context list"],
    api: { ...api, reason: "SERVER_NOT_REACHED" },
    cause: error,
  });
}

/** The dial says at which step it ended, and what to do. */
function notReached(api: ApiError, error: DialError, where: string): Failure {
  return new Failure(exitCodes.notReached, `The server is not reached: ${error.message}.`, {
    reason: error.reason,
    lines: [`It was looked for at ${where}.`, error.remedy, "Nothing was sent."].filter((line) => line !== ""),
    next: error.reason === "TCP_REFUSED" ? ["server start", "context list"] : undefined,
    api: { ...api, reason: error.reason },
    cause: error,
  });
}

function exitCodeOf(api: ApiError): ExitCode {
  if (api.code === "unauthenticated" || api.code === "permission_denied") return exitCodes.notAllowed;
  if (api.code === "deadline_exceeded") return exitCodes.notInTime;
  return exitCodes.failed;
}

const networkWords: Record<string, string> = {
  ECONNRESET: "the connection was cut",
  EPIPE: "the connection was cut",
  ETIMEDOUT: "no answer in time",
};

/** With these the request may have reached the server; with all others no connection was made. */
const mayHaveSent = new Set(["ECONNRESET", "EPIPE", "ETIMEDOUT", "ERR_STREAM_PREMATURE_CLOSE"]);

/** Looks through the causes for what the network said. */
function networkError(error: unknown): { words: string; sent: boolean } | undefined {
  /** No chain of ours is longer; a circle must end. */
  const maxDepth = 8;
  let cause: unknown = error;
  for (let depth = 0; depth < maxDepth && cause instanceof Error; depth += 1) {
    const { code } = cause as NodeJS.ErrnoException;
    if (typeof code === "string" && /^[A-Z][A-Z_0-9]+$/.test(code)) {
      return { words: networkWords[code] ?? `${code}: ${cause.message}`, sent: mayHaveSent.has(code) };
    }
    const first: unknown = cause instanceof AggregateError ? cause.errors[0] : undefined;
    cause = first ?? cause.cause;
  }
  return undefined;
}

function sentence(text: string): string {
  const trimmed = text.trim().replace(/\.$/, "");
  if (trimmed === "") return "It failed.";
  if (/^[a-z][\w.[\]]*:/.test(trimmed)) return `${trimmed}.`; // the path of a field is written as it is
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}.`;
}
