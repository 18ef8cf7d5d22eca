/**
 * REST over the contract's methods: finds the method that a path is bound to,
 * makes its request message, calls it through a transport, and writes the
 * answer as proto3 JSON.
 */
import { toJson } from "@bufbuild/protobuf";
import type {
  DescMethodStreaming,
  DescMethodUnary,
  DescService,
  JsonValue,
  Message,
  Registry,
} from "@bufbuild/protobuf";
import type { Transport } from "@connectrpc/connect";
import { createAsyncIterable } from "@connectrpc/connect/protocol";
import { restStatus } from "@bowline/contract";
import { problem } from "@bowline/kernel";
import { answerFailure, answerJson, header, passedHeaders, readBody, startCall } from "./call.ts";
import type { Call, RestRequest, RestResponse } from "./call.ts";
import { readJson } from "./json-text.ts";
import { restLimits } from "./limits.ts";
import type { RestLimits } from "./limits.ts";
import { openApiDocument } from "./openapi/document.ts";
import type { OpenApiInfo } from "./openapi/document.ts";
import { requestOf } from "./request.ts";
import { routeFinder, routesOf } from "./routes.ts";
import type { Found, Route } from "./routes.ts";
import { answerStream } from "./streams.ts";

export type RestOptions = {
  services: readonly DescService[];
  /** Reaches the handlers, with the interceptors that other protocols pass too. */
  transport: Transport;
  /** For `google.protobuf.Any` in answers. */
  registry?: Registry;
  limits?: Partial<RestLimits>;
  /** What the OpenAPI document says about this server. */
  info?: OpenApiInfo;
  /** When it aborts, open streams end cleanly; calls are still answered. */
  draining?: AbortSignal;
  /** Is told what no answer may say: defects of REST itself. */
  log: { error(fields: object, message: string): void };
};

export type Rest = {
  /** Answers the request; false, and nothing done, where no method has this path. */
  handle(request: RestRequest, response: RestResponse): boolean;
  /** Answers 404 in the form of every other failure. */
  notFound(request: RestRequest, response: RestResponse): void;
  /** Answers what was thrown, a Problem or a Connect error, in the form of every other failure. */
  fail(request: RestRequest, response: RestResponse, error: unknown): void;
  /** The OpenAPI 3.1 document; the same object each time. */
  openapi(): object;
};

/** Throws where a binding of the contract cannot be served. */
export function createRest(options: RestOptions): Rest {
  const routes = routesOf(options.services);
  const find = routeFinder(routes);
  const limits: RestLimits = { ...restLimits, ...options.limits };
  let streams = 0;
  let document: object | undefined;

  return {
    handle(request, response) {
      const [path = "", query = ""] = splitUrl(request.url ?? "");
      const found = find(path);
      if (found.length === 0) return false;
      const call = startCall(request, response, limits);
      const asked = request.method === "HEAD" ? "GET" : request.method;
      const one = found.find(({ route }) => route.httpMethod === asked);
      if (one === undefined || (request.method === "HEAD" && one.route.method.methodKind !== "unary")) {
        wrongMethod(call, found);
        return true;
      }
      run(call, answer(call, one, query));
      return true;
    },
    notFound(request, response) {
      const path = JSON.stringify(splitUrl(request.url ?? "")[0]?.slice(0, 200));
      answerFailure(startCall(request, response, limits), problem("UNKNOWN_METHOD", `Nothing is at ${path}.`));
    },
    fail(request, response, error) {
      answerFailure(startCall(request, response, limits), error);
    },
    openapi: () => (document ??= openApiDocument(routes, options.info)),
  };

  /** Answers what `work` throws; nothing escapes. */
  function run(call: Call, work: Promise<void>): void {
    work.catch((error: unknown) => {
      if (call.gone.aborted) return;
      if (isDefect(error)) options.log.error({ err: error, requestId: call.requestId }, "a REST call failed");
      if (call.response.headersSent) call.response.destroy();
      else answerFailure(call, error);
    });
  }

  async function answer(call: Call, { route, variables }: Found, query: string): Promise<void> {
    const { headers } = call.request;
    const message = requestOf(
      route,
      {
        variables,
        query,
        body: await bodyOf(call),
        ifMatch: header(headers, "if-match"),
        idempotencyKey: header(headers, "idempotency-key"),
        lastEventId: header(headers, "last-event-id"),
      },
      limits,
      options.registry,
    );
    if (route.method.methodKind === "unary") return answerUnary(call, route, message);
    if (streams >= limits.maxStreams)
      throw problem("OVERLOADED", "Too many watches are open.", { retryAfterMs: 5_000 });
    streams += 1;
    try {
      await answerServerStream(call, route, message);
    } finally {
      streams -= 1;
    }
  }

  async function bodyOf(call: Call): Promise<JsonValue | undefined> {
    if (call.request.method === "GET" || call.request.method === "HEAD") return undefined; // HTTP gives such a body no meaning
    const bytes = await readBody(call, limits);
    return readJson(bytes, limits.maxJsonDepth);
  }

  async function answerUnary(call: Call, route: Route, message: Message): Promise<void> {
    const method = route.method as DescMethodUnary;
    const { transport, registry } = options;
    const answered = await transport.unary(method, call.gone, limits.answerWithinMs, passedHeaders(call), message);
    const json = toJson(method.output, answered.message, { alwaysEmitImplicit: true, registry });
    const body = typeof json === "object" && json !== null && !Array.isArray(json) ? json : undefined;
    const etag = typeof body?.["etag"] === "string" && body["etag"] !== "" ? `"${body["etag"]}"` : undefined;
    const known = header(call.request.headers, "if-none-match");
    if (etag !== undefined && route.httpMethod === "GET" && known?.replace(/^W\//, "") === etag) {
      call.response.writeHead(304, { etag, "x-request-id": call.requestId });
      call.response.end();
      return;
    }
    const said = answered.header.get(dispatchHeader);
    answerJson(call, restStatus(method, body), json, {
      ...(etag === undefined ? {} : { etag }),
      ...(said === null ? {} : { [dispatchHeader]: said }),
    });
  }

  async function answerServerStream(call: Call, route: Route, message: Message): Promise<void> {
    const method = route.method as unknown as DescMethodStreaming;
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, call.gone]);
    const { transport, registry, draining } = options;
    const open = async (): Promise<AsyncIterable<Message>> => {
      const input = createAsyncIterable([message]);
      return (await transport.stream(method, signal, undefined, passedHeaders(call), input)).message;
    };
    await answerStream(call, open, method.output, { bounds: limits, registry, stop, draining });
  }
}

/** What a handler says about how its work goes on: `degraded`, or nothing. */
const dispatchHeader = "bowline-dispatch";

function splitUrl(url: string): string[] {
  const at = url.indexOf("?");
  return at < 0 ? [url] : [url.slice(0, at), url.slice(at + 1)];
}

/** OPTIONS is answered with what is allowed; any other method with 405 and the same. */
function wrongMethod(call: Call, found: readonly Found[]): void {
  const methods = new Set<string>(["OPTIONS"]);
  for (const { route } of found) {
    methods.add(route.httpMethod);
    if (route.httpMethod === "GET" && route.method.methodKind === "unary") methods.add("HEAD");
  }
  const allow = [...methods].toSorted().join(", ");
  if (call.request.method === "OPTIONS") {
    call.response.writeHead(204, { allow, "x-request-id": call.requestId });
    call.response.end();
    return;
  }
  answerFailure(call, problem("METHOD_NOT_ALLOWED", `This path takes ${allow}.`), { allow });
}

function isDefect(error: unknown): boolean {
  if (!(error instanceof Error)) return true;
  return error.name !== "Problem" && error.name !== "ConnectError";
}
