/**
 * gRPC and Connect on node:http2, for one service whose calls are many: what is
 * said there costs little more than the bytes. Whatever else a client may speak
 * is for a general handler; `takes` tells which is which.
 *
 *   protocol.ts  which protocol a request speaks    envelope.ts  framing
 *   exchange.ts  one call and its answer            status.ts    how an end is written
 *   unary.ts, duplex.ts  the two kinds of calls     deadline.ts  how long a caller waits
 */
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodBiDiStreaming,
  type DescMethodUnary,
  type DescService,
  type Message,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { Code, ConnectError, type ContextValues } from "@connectrpc/connect";
import { createMethodSerializationLookup } from "@connectrpc/connect/protocol";
import { timeoutOf } from "./deadline.ts";
import { createDuplex, type Duplex } from "./duplex.ts";
import { Exchange, type WireCall } from "./exchange.ts";
import { isCompressed, type Protocol, protocolOf, refusedCompression } from "./protocol.ts";
import { told } from "./status.ts";
import { readOne } from "./unary.ts";

export type { Duplex, Receiver } from "./duplex.ts";
export type { WireCall } from "./exchange.ts";

/** Handlers of a service. What they throw is told where it is a ConnectError; else it is "internal error". */
export type WireHandlers<Service extends DescService> = {
  [Name in keyof Service["method"]]: WireHandler<Service["method"][Name]>;
};
type WireHandler<Method> =
  Method extends DescMethodUnary<infer In, infer Out>
    ? (request: MessageShape<In>, call: WireCall) => Promise<MessageInitShape<Out>>
    : Method extends DescMethodBiDiStreaming<infer In, infer Out>
      ? /** The call ends when it resolves, and fails with what it rejects with. */
        (duplex: Duplex<MessageShape<In>, MessageShape<Out>>, call: WireCall) => Promise<void>
      : never;

/** A live caller ends its side a round trip after the answer; a slow line still carries that answer. */
const longestLingerMs = 10_000;

type Unary = (request: Message, call: WireCall) => Promise<MessageInitShape<DescMessage>>;
type Streaming = (duplex: Duplex<Message, Message>, call: WireCall) => Promise<void>;

export interface Wire {
  /** True where a request is one for `serve`. */
  takes(headers: IncomingHttpHeaders): boolean;
  /** True where its messages are compressed: `serve` answers that with UNIMPLEMENTED. */
  compressed(headers: IncomingHttpHeaders): boolean;
  /** Answers it. `values` are the call's. Throws for what it does not take. */
  serve(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, values?: ContextValues): void;
}

export function createWire<Service extends DescService>(
  service: Service,
  handlers: WireHandlers<Service>,
  options: {
    /** Of one message that comes in. */
    limitBytes: number;
    /** Its abort aborts the signals of all calls. */
    draining?: AbortSignal;
    /** A caller that says more after its answer is stopped after this. */
    lingerMs?: number;
  },
): Wire {
  const { limitBytes, lingerMs = longestLingerMs } = options;
  const noLimit = 2 ** 32 - 1;
  const limits = { readMaxBytes: limitBytes, writeMaxBytes: noLimit, compressMinBytes: 0 };
  const routes = new Map(
    service.methods.map((method) => {
      const handler: unknown = (handlers as Record<string, unknown>)[method.localName];
      const codecs = createMethodSerializationLookup(method, undefined, undefined, limits);
      return [`/${service.typeName}/${method.name}`, { method, handler, codecs, streaming: streams(method) }];
    }),
  );
  const open = new Set<Exchange>();
  options.draining?.addEventListener("abort", () => {
    for (const exchange of open) exchange.abort(new ConnectError("the server goes away", Code.Unavailable));
  });

  const found = (headers: IncomingHttpHeaders) => {
    const route = routes.get(headers[":path"] ?? "");
    if (route === undefined || headers[":method"] !== "POST") return undefined;
    const protocol = protocolOf(headers["content-type"], route.streaming);
    return protocol === undefined ? undefined : { ...route, protocol };
  };

  return {
    takes: (headers) => found(headers) !== undefined,
    compressed(headers) {
      const protocol = found(headers)?.protocol;
      return protocol !== undefined && isCompressed(headers, protocol);
    },
    serve(stream, headers, values) {
      const route = found(headers);
      if (route === undefined) throw new Error(`${headers[":path"]} is not served here`);
      const { method, protocol, codecs } = route;
      const exchange: Exchange = new Exchange(
        { method, protocol, values, lingerMs, ended: () => open.delete(exchange) },
        stream,
        headers,
      );
      open.add(exchange);
      if (!begin(exchange, protocol, headers)) return;
      const input = codecs.getI(protocol.binary);
      const output = codecs.getO(protocol.binary);
      const failed = (error: unknown): void => exchange.finish(told(error));
      // An answer that HTTP/2 refuses to write, for a header of it, cuts the call and nothing else.
      const answered = (answer: Promise<void>): void => void answer.catch(() => exchange.hangUp());
      if (route.streaming) {
        const codec = { parse: (bytes: Uint8Array) => input.parse(bytes), serialize: output.serialize };
        const duplex = createDuplex<Message, Message>(exchange, codec as never, limitBytes);
        answered((route.handler as Streaming)(duplex, exchange).then(() => exchange.finish(), failed));
        return;
      }
      const run = async (bytes: Uint8Array): Promise<Uint8Array> => {
        const answer = await (route.handler as Unary)(input.parse(bytes) as Message, exchange);
        return output.serialize(create(method.output, answer) as never);
      };
      readOne(exchange, limitBytes, (outcome) => {
        if (!exchange.open) return; // its time is over already
        if ("error" in outcome) return failed(outcome.error);
        answered(run(outcome.bytes).then((bytes) => exchange.reply(bytes), failed));
      });
    },
  };
}

/** False where the request is refused for its headers. */
function begin(exchange: Exchange, protocol: Protocol, headers: IncomingHttpHeaders): boolean {
  if (isCompressed(headers, protocol)) {
    const refused = refusedCompression(headers, protocol);
    exchange.finish(refused.error, refused.headers);
    return false;
  }
  try {
    exchange.limit(timeoutOf(headers, protocol));
    return true;
  } catch (error) {
    exchange.finish(told(error));
    return false;
  }
}

function streams(method: DescMethod): boolean {
  if (method.methodKind === "unary") return false;
  if (method.methodKind === "bidi_streaming") return true;
  throw new Error(`${method.name}: calls of this kind are not served here`);
}
