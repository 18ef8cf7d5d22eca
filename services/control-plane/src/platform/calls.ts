/**
 * What belongs around every call, as plain functions: facts of the request, log
 * and metrics, translation of errors, limits and access, validation. They know
 * no transport; interceptors.ts and own-wire.ts put them around handlers.
 *
 * A1: a method without an access rule is refused.
 * A2: a handler of a method with roles never runs without a principal that has one.
 */
import type { DescMessage, DescMethod, Message } from "@bufbuild/protobuf";
import { createValidator } from "@bufbuild/protovalidate";
import { ConnectError, type ContextValues } from "@connectrpc/connect";
import { methodAccess, restStatus } from "@bowline/contract";
import { newId, problem, type Problem } from "@bowline/kernel";
import { asTraceparent, noTraces, type Span, type Traces } from "@bowline/traces";
import { type Principal, principalKey, requestKey } from "./context.ts";
import { connectErrorOf, problemOf } from "./problems.ts";
import { createRateLimits, type RateLimits, type RateLimitSettings } from "./rate-limits.ts";

export interface CallPorts {
  /** The principal that a credential names; undefined: no credential. Throws UNAUTHENTICATED or TOKEN_EXPIRED. */
  authenticate(headers: Pick<Headers, "get">): Promise<Principal | undefined>;
  log: { info(fields: object, message: string): void; error(fields: object, message: string): void };
  /** Services beside our own that need no credential, by type name. */
  openServices?: ReadonlySet<string>;
  observe(call: { method: string; code: string; reason?: string | undefined; seconds: number }): void;
  /** Unset: nothing is traced. */
  traces?: Traces;
  /** True while what a call starts is dispatched slower than usual. */
  dispatchDegraded?: () => boolean;
  /** Undefined: as many calls as come. */
  rateLimits?: RateLimitSettings;
}

/** What of a call its surroundings look at. */
export interface Call {
  readonly method: DescMethod;
  /** It has no one answer. */
  readonly stream: boolean;
  readonly header: Pick<Headers, "get">;
  readonly values: ContextValues;
}

/** A call that has begun; exactly one of its ends is called. */
export interface Begun {
  done(): void;
  /** Logs and counts it, and says what the caller is told. */
  fail(error: unknown): ConnectError;
  /** The caller is gone, or was hung up on: nothing here has failed. */
  unwritten(): void;
  /** Headers of an answer in order. */
  answerHeaders(): Record<string, string>;
}

export interface Around {
  /** Puts the request's facts into its values, and begins its line in the log, its metrics and its span. */
  begin(call: Call): Begun;
  /** Runs it where its caller may. */
  admitted<T>(call: Call, run: () => Promise<T>): Promise<T>;
  /** Throws INVALID_ARGUMENT with what the contract's rules say. */
  check(schema: DescMessage, message: Message): void;
}

/** Header in which the port tells who dialled; what a client sends under this name is dropped there. */
export const remoteAddressHeader = "x-bowline-remote-address";

/** Header in which the port tells the thumbprint of the connection's client certificate; dropped like the other. */
export const clientCertificateHeader = "x-bowline-client-certificate";

/**
 * Says `degraded` in the answer to a call that started work (REST answers it 202) while wake-ups take the slow way:
 * all that was accepted is done, some later. Over gRPC it is in the headers too.
 */
export const dispatchHeader = "bowline-dispatch";

/** A request id that a client may set: short and printable, so that logs stay readable. */
const requestIdPattern = /^[\w.:-]{1,64}$/;

/** REST's status for work that goes on after the answer. */
const startedWork = 202;

export function createAround(ports: CallPorts): Around {
  const validator = createValidator();
  const limits = createRateLimits(ports.rateLimits);
  return {
    begin: (call) => begin(call, ports),
    admitted: (call, run) => admitted(call, run, ports, limits),
    check: (schema, message) => check(validator, schema, message),
  };
}

/** What AIP-155 calls `request_id` may come as the header that HTTP clients send; REST's own mapping does the same. */
export function takeIdempotencyKey({ header }: Pick<Call, "header">, message: object): void {
  const key = header.get("idempotency-key");
  if (key !== null && "requestId" in message && message.requestId === "") message.requestId = key;
}

function begin(call: Call, ports: CallPorts): Begun {
  const started = performance.now();
  const method = `${call.method.parent.typeName}/${call.method.name}`;
  const given = call.header.get("x-request-id") ?? "";
  const requestId = requestIdPattern.test(given) ? given : newId("req");
  const remoteAddress = call.header.get(remoteAddressHeader) ?? "";
  const clientCertificate = call.header.get(clientCertificateHeader) ?? "";
  const span = spanOf(call, method, ports);
  call.values.set(requestKey, { requestId, remoteAddress, clientCertificate, traceParent: span.traceparent });

  const done = (failure?: Problem): void => {
    const seconds = (performance.now() - started) / 1000;
    span.end(failure?.reason);
    ports.observe({ method, code: failure?.code ?? "ok", reason: failure?.reason, seconds });
    const fields = {
      method,
      requestId,
      remoteAddress,
      principal: call.values.get(principalKey)?.id,
      ms: Math.round(seconds * 1000),
    };
    if (failure?.code === "internal")
      ports.log.error({ ...fields, reason: failure.reason, error: failure.cause }, "call failed");
    else
      ports.log.info(
        failure === undefined ? fields : { ...fields, reason: failure.reason, detail: failure.message },
        "call",
      );
  };
  return {
    done: () => done(),
    unwritten() {
      const seconds = (performance.now() - started) / 1000;
      span.end("CANCELED");
      ports.observe({ method, code: "canceled", seconds });
      ports.log.info({ method, requestId, remoteAddress, ms: Math.round(seconds * 1000) }, "the caller is gone");
    },
    fail(error) {
      if (error instanceof ConnectError) {
        const known = error.cause;
        done(known instanceof Error ? problemOf(known) : problemOf(problem("INVALID_ARGUMENT", error.rawMessage)));
        error.metadata.set("x-request-id", requestId);
        return error;
      }
      const found = problemOf(error);
      done(found);
      const translated = connectErrorOf(found);
      translated.metadata.set("x-request-id", requestId);
      return translated;
    },
    answerHeaders() {
      const degraded = ports.dispatchDegraded?.() === true && restStatus(call.method) === startedWork;
      return { "x-request-id": requestId, ...(degraded ? { [dispatchHeader]: "degraded" } : {}) };
    },
  };
}

/** Agents' own calls, and what only looks whether the server is there, are parts of a trace and begin none. */
function spanOf(call: Call, name: string, ports: CallPorts): Span {
  const { traces = noTraces } = ports;
  const parent = asTraceparent(call.header.get("traceparent"));
  const begins =
    !call.stream && !name.startsWith("bowline.agent.") && !ports.openServices?.has(call.method.parent.typeName);
  return begins ? traces.start(name, { kind: "server", parent }) : traces.part(name, { kind: "server", parent });
}

async function admitted<T>(call: Call, run: () => Promise<T>, ports: CallPorts, limits: RateLimits): Promise<T> {
  if (ports.openServices?.has(call.method.parent.typeName)) return run();
  const access = methodAccess(call.method);
  if (access.kind === "undeclared") throw problem("PERMISSION_DENIED"); // A1
  const { remoteAddress } = call.values.get(requestKey);
  // Enrolment: its credential is the registration token in its message.
  if (access.kind === "public") return limits.guessing("enrolment", remoteAddress, run);
  // The agent API authenticates by itself: its credentials are assertions and session tokens.
  if (access.kind === "roles" && access.roles.every((role) => role === "agent")) {
    if (!/^bearer \S/i.test(call.header.get("authorization") ?? "")) {
      throw problem("UNAUTHENTICATED", "Send `authorization: Bearer <assertion or access token>`.");
    }
    return run();
  }
  await limits.address(remoteAddress);
  const principal = await limits.guessing("api", remoteAddress, () => ports.authenticate(call.header));
  if (principal === undefined) {
    throw problem(
      "UNAUTHENTICATED",
      "Send `Authorization: Bearer <API token>`. `bowline login` or BOWLINE_TOKEN_FILE set it.",
    );
  }
  call.values.set(principalKey, principal);
  await limits.principal(principal.id);
  if (access.kind === "roles" && !access.roles.includes(principal.role)) {
    throw problem(
      "PERMISSION_DENIED",
      `This needs one of the roles ${access.roles.join(", ")}; yours is ${principal.role}.`,
      {
        metadata: { role: principal.role, needs: access.roles.join(",") },
      },
    );
  }
  return run();
}

function check(validator: ReturnType<typeof createValidator>, schema: DescMessage, message: Message): void {
  const result = validator.validate(schema, message);
  if (result.kind === "valid") return;
  if (result.kind === "error") throw result.error;
  const violations = result.violations.map((violation) => ({
    field: violation.field
      .map((part) =>
        part.kind === "list_sub"
          ? `[${part.index}]`
          : part.kind === "map_sub"
            ? `[${JSON.stringify(part.key)}]`
            : part.kind === "extension"
              ? `[${part.typeName}]`
              : `.${part.name}`,
      )
      .join("")
      .replace(/^\./, ""),
    description: violation.message,
  }));
  const first = violations[0];
  throw problem("INVALID_ARGUMENT", first === undefined ? undefined : `${first.field}: ${first.description}`, {
    violations,
  });
}
