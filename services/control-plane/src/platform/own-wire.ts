/** What happens around every call (calls.ts), around handlers of our own wire. */
import type { DescMethod, DescService, Message } from "@bufbuild/protobuf";
import type { Duplex, WireCall, WireHandlers } from "@bowline/session";
import { type Around, type Call, takeIdempotencyKey } from "./calls.ts";

type Unary = (request: Message, call: WireCall) => Promise<object>;
type Streaming = (duplex: Duplex<Message, Message>, call: WireCall) => Promise<void>;

/** The same handlers, each with its surroundings. */
export function surrounded<Service extends DescService>(
  service: Service,
  handlers: WireHandlers<Service>,
  around: Around,
): WireHandlers<Service> {
  const wrap = (method: DescMethod): unknown => {
    const handler: unknown = (handlers as Record<string, unknown>)[method.localName];
    return method.methodKind === "unary" ? unary(handler as Unary, around) : streaming(handler as Streaming, around);
  };
  return Object.fromEntries(service.methods.map((method) => [method.localName, wrap(method)])) as WireHandlers<Service>;
}

function callOf({ method, requestHeader, values }: WireCall): Call {
  return { method, stream: method.methodKind !== "unary", header: requestHeader, values };
}

function unary(handler: Unary, around: Around): Unary {
  return async (request, wired) => {
    const call = callOf(wired);
    const begun = around.begin(call);
    takeIdempotencyKey(call, request);
    try {
      const answer = await around.admitted(call, async () => {
        around.check(call.method.input, request);
        return handler(request, wired);
      });
      Object.assign(wired.responseHeader, begun.answerHeaders());
      begun.done();
      return answer;
    } catch (error) {
      throw begun.fail(error);
    }
  };
}

/** Messages of a stream are not checked here: its handler is, by what it does with them. */
function streaming(handler: Streaming, around: Around): Streaming {
  return async (duplex, wired) => {
    const call = callOf(wired);
    const begun = around.begin(call);
    Object.assign(wired.responseHeader, begun.answerHeaders());
    try {
      await around.admitted(call, () => handler(duplex, wired));
      begun.done();
    } catch (error) {
      if (!wired.gone) throw begun.fail(error);
      begun.unwritten();
      throw error;
    }
  };
}
