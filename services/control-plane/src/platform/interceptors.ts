/**
 * What happens around every call, in this order: facts of the request, log and
 * metrics, translation of errors, limits and access, validation.
 *
 * A1: a method without an access rule is refused.
 * A2: a handler of a method with roles never runs without a principal that has one.
 */
import { createValidator } from "@bufbuild/protovalidate";
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { Code, ConnectError, type Interceptor, type StreamRequest, type UnaryRequest } from "@connectrpc/connect";
import { methodAccess, restStatus } from "@bowline/contract";
import { newId, problem, type Problem } from "@bowline/kernel";
import { type Principal, principalKey, requestKey } from "./context.ts";
import { connectErrorOf, problemOf } from "./problems.ts";
import { asTraceparent, noTraces, type Span, type Traces } from "@bowline/traces";
import { createRateLimits, type RateLimits, type RateLimitSettings } from "./rate-limits.ts";

export interface InterceptorPorts {
  /** The principal that a credential names; undefined: no credential. Throws UNAUTHENTICATED or TOKEN_EXPIRED. */
  authenticate(headers: Headers): Promise<Principal | undefined>;
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

/** Header in which the port tells who dialled; what a client sends under this name is dropped there. */
export const remoteAddressHeader = "x-bowline-remote-address";

/**
 * Says `degraded` in the answer to a call that started work (REST answers it 202) while wake-ups take the slow way:
 * all that was accepted is done, some later. Over gRPC it is in the headers too.
 */
export const dispatchHeader = "bowline-dispatch";
/** Header in which the port tells the thumbprint of the connection's client certificate; dropped like the other. */
export const clientCertificateHeader = "x-bowline-client-certificate";

/** A request id that a client may set: short and printable, so that logs stay readable. */
const requestIdPattern = /^[\w.:-]{1,64}$/;

/** REST's status for work that goes on after the answer. */
const startedWork = 202;

export function interceptors(ports: InterceptorPorts): Interceptor[] {
  const validator = createValidator();
  const limits = createRateLimits(ports.rateLimits);
  return [
    facts,
    idempotencyKey,
    (next) => observed(next, ports),
    (next) => accessed(next, ports, limits),
    (next) => validated(next, validator),
  ];
}

const facts: Interceptor = (next) => (request) => {
  const given = request.header.get("x-request-id") ?? "";
  const requestId = requestIdPattern.test(given) ? given : newId("req");
  request.contextValues.set(requestKey, {
    requestId,
    remoteAddress: request.header.get(remoteAddressHeader) ?? "",
    clientCertificate: request.header.get(clientCertificateHeader) ?? "",
  });
  return next(request);
};

/** What AIP-155 calls `request_id` may come as the header that HTTP clients send; REST's own mapping does the same. */
const idempotencyKey: Interceptor = (next) => (request) => {
  const key = request.header.get("idempotency-key");
  if (key !== null && !request.stream && "requestId" in request.message && request.message.requestId === "") {
    request.message.requestId = key;
  }
  return next(request);
};

type Next = Parameters<Interceptor>[0];

function observed(next: Next, ports: InterceptorPorts): Next {
  return async (request) => {
    const started = performance.now();
    const method = `${request.service.typeName}/${request.method.name}`;
    const about = request.contextValues.get(requestKey);
    const { requestId, remoteAddress } = about;
    const span = spanOf(request, ports);
    request.contextValues.set(requestKey, { ...about, traceParent: span.traceparent });
    const done = (failure?: Problem): void => {
      const seconds = (performance.now() - started) / 1000;
      span.end(failure?.reason);
      ports.observe({ method, code: failure?.code ?? "ok", reason: failure?.reason, seconds });
      const fields = {
        method,
        requestId,
        remoteAddress,
        principal: request.contextValues.get(principalKey)?.id,
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
    /** The caller is gone, or was hung up on: nothing here has failed. */
    const unwritten = (): void => {
      const seconds = (performance.now() - started) / 1000;
      span.end("CANCELED");
      ports.observe({ method, code: "canceled", seconds });
      ports.log.info({ method, requestId, remoteAddress, ms: Math.round(seconds * 1000) }, "the caller is gone");
    };
    const fail = (error: unknown): ConnectError => {
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
    };
    try {
      const response = await next(request);
      response.header.set("x-request-id", requestId);
      if (ports.dispatchDegraded?.() === true && restStatus(request.method) === startedWork)
        response.header.set(dispatchHeader, "degraded");
      if (!response.stream) {
        done();
        return response;
      }
      return { ...response, message: translated(response.message, { fail, unwritten, done }) };
    } catch (error) {
      throw fail(error);
    }
  };
}

/** Agents' own calls, and what only looks whether the server is there, are parts of a trace and begin none. */
function spanOf(request: UnaryRequest | StreamRequest, ports: InterceptorPorts): Span {
  const { traces = noTraces } = ports;
  const parent = asTraceparent(request.header.get("traceparent"));
  const name = `${request.service.typeName}/${request.method.name}`;
  const begins =
    !request.stream && !name.startsWith("bowline.agent.") && !ports.openServices?.has(request.service.typeName);
  return begins ? traces.start(name, { kind: "server", parent }) : traces.part(name, { kind: "server", parent });
}

async function* translated<T>(
  messages: AsyncIterable<T>,
  ends: { fail: (error: unknown) => ConnectError; unwritten: () => void; done: () => void },
): AsyncGenerator<T> {
  let written = true;
  try {
    for await (const message of messages) {
      written = false; // An error that is thrown in here is of whoever writes the message.
      yield message;
      written = true;
    }
    ends.done();
  } catch (error) {
    if (written) throw ends.fail(error);
    ends.unwritten();
    throw error;
  }
}

function accessed(next: Next, ports: InterceptorPorts, limits: RateLimits): Next {
  return async (request) => {
    if (ports.openServices?.has(request.service.typeName)) return next(request);
    const access = methodAccess(request.method);
    if (access.kind === "undeclared") throw problem("PERMISSION_DENIED"); // A1
    const { remoteAddress } = request.contextValues.get(requestKey);
    // Enrolment: its credential is the registration token in its message.
    if (access.kind === "public") return limits.guessing("enrolment", remoteAddress, async () => next(request));
    // The agent API authenticates by itself: its credentials are assertions and session tokens.
    if (access.kind === "roles" && access.roles.every((role) => role === "agent")) {
      if (!/^bearer \S/i.test(request.header.get("authorization") ?? "")) {
        throw problem("UNAUTHENTICATED", "Send `authorization: Bearer <assertion or access token>`.");
      }
      return next(request);
    }
    await limits.address(remoteAddress);
    const principal = await limits.guessing("api", remoteAddress, () => ports.authenticate(request.header));
    if (principal === undefined) {
      throw problem(
        "UNAUTHENTICATED",
        "Send `Authorization: Bearer <API token>`. `bowline login` or BOWLINE_TOKEN_FILE set it.",
      );
    }
    request.contextValues.set(principalKey, principal);
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
    return next(request);
  };
}

function validated(next: Next, validator: ReturnType<typeof createValidator>): Next {
  const check = (schema: DescMessage, message: Message): void => {
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
  };
  return (request: UnaryRequest | StreamRequest) => {
    if (!request.stream) check(request.method.input, request.message);
    else if (request.method.methodKind === "server_streaming") {
      return next({
        ...request,
        message: eachChecked(request.message, (message) => check(request.method.input, message)),
      });
    }
    return next(request);
  };
}

async function* eachChecked(
  messages: AsyncIterable<Message>,
  check: (message: Message) => void,
): AsyncGenerator<Message> {
  for await (const message of messages) {
    check(message);
    yield message;
  }
}

/** True where a Connect error says that the other side went away; not worth a line in the log. */
export function isCancellation(error: unknown): boolean {
  return error instanceof ConnectError && error.code === Code.Canceled;
}
