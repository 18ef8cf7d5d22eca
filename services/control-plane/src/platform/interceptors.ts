/** What happens around every call (calls.ts), as interceptors of Connect. */
import type { Message } from "@bufbuild/protobuf";
import type { ConnectError, Interceptor, StreamRequest, UnaryRequest } from "@connectrpc/connect";
import { type Around, type Call, takeIdempotencyKey } from "./calls.ts";

export function interceptors(around: Around): Interceptor[] {
  return [(next) => observed(next, around), (next) => admitted(next, around), (next) => validated(next, around)];
}

type Next = Parameters<Interceptor>[0];

function callOf(request: UnaryRequest | StreamRequest): Call {
  const { method, stream, header, contextValues } = request;
  return { method, stream, header, values: contextValues };
}

function observed(next: Next, around: Around): Next {
  return async (request) => {
    const call = callOf(request);
    const begun = around.begin(call);
    if (!request.stream) takeIdempotencyKey(call, request.message);
    try {
      const response = await next(request);
      for (const [name, value] of Object.entries(begun.answerHeaders())) response.header.set(name, value);
      if (!response.stream) {
        begun.done();
        return response;
      }
      return { ...response, message: translated(response.message, begun) };
    } catch (error) {
      throw begun.fail(error);
    }
  };
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

function admitted(next: Next, around: Around): Next {
  return (request) => around.admitted(callOf(request), async () => next(request));
}

function validated(next: Next, around: Around): Next {
  return async (request) => {
    const { method } = request;
    if (!request.stream) around.check(method.input, request.message);
    else if (method.methodKind === "server_streaming") {
      return next({
        ...request,
        message: eachChecked(request.message, (message) => around.check(method.input, message)),
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
