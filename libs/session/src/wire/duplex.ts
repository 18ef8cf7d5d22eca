/**
 * A call whose both sides are streams, pushed: no iterator stands between the
 * bytes and the message's handler.
 *
 * D1: messages are handled in order, one at a time. While one is being handled
 *     that takes its time (a promise), nothing more is read: HTTP/2's flow
 *     control holds the caller back.
 * D2: after the end, in order or not, and after the answer no message is handled.
 */
import type { Message } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { compressedFlag, createEnvelopeReader, endStreamFlag } from "./envelope.ts";
import type { Exchange } from "./exchange.ts";

export interface Receiver<In> {
  /** What it throws, or rejects with, is the handler's own to have caught: it ends the call as a defect. */
  message(message: In): void | Promise<void>;
  /** The caller has said everything, in order. */
  end(): void;
  /** The caller's bytes are no messages, it is gone, or its time is over. */
  failed(why: ConnectError): void;
}

export interface Duplex<In, Out> {
  /** Whether the caller's format is protobuf's binary one; else JSON. */
  readonly binary: boolean;
  /** Begins to read. Once. */
  receive(receiver: Receiver<In>): void;
  /** A message's bytes in the caller's format, to be written once or more often. */
  encode(message: Out): Uint8Array;
  /** Writes them together. False: `drained` tells when to go on. */
  write(messages: readonly Uint8Array[]): boolean;
  /** Calls back each time that the caller has taken what `write` said false to. */
  drained(callback: () => void): void;
}

interface Codec<In, Out> {
  parse(bytes: Uint8Array): In;
  serialize(message: Out): Uint8Array;
}

export function createDuplex<In extends Message, Out extends Message>(
  exchange: Exchange,
  codec: Codec<In, Out>,
  limitBytes: number,
): Duplex<In, Out> {
  const { stream, protocol } = exchange;
  const reader = createEnvelopeReader(limitBytes);
  let receiver: Receiver<In> | undefined;
  let busy = false;
  let saidAll = false;

  /** Handles what is there, until there is no more, or one of them takes its time (D1). */
  const pump = (): void => {
    try {
      while (!busy && receiver !== undefined && exchange.open) {
        const envelope = reader.next();
        if (envelope === undefined) break;
        if ((envelope.flags & compressedFlag) !== 0) {
          throw new ConnectError("received compressed envelope, but do not know how to decompress", Code.Internal);
        }
        if (protocol.kind === "connect" && (envelope.flags & endStreamFlag) !== 0) continue;
        const handled = receiver.message(codec.parse(envelope.data));
        if (handled !== undefined) wait(handled);
      }
    } catch (error) {
      return fail(error instanceof ConnectError ? error : defect(error));
    }
    if (!saidAll || busy || receiver === undefined || !exchange.open) return;
    if (reader.unfinished) return fail(new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument));
    const heard = receiver;
    receiver = undefined;
    heard.end();
  };

  const wait = (handled: Promise<void>): void => {
    busy = true;
    stream.pause();
    handled.then(
      () => {
        busy = false;
        pump();
        if (!busy) stream.resume();
      },
      (error: unknown) => fail(defect(error)),
    );
  };

  const fail = (why: ConnectError): void => {
    const heard = receiver;
    receiver = undefined; // D2
    heard?.failed(why);
  };

  return {
    binary: protocol.binary,
    receive(given) {
      receiver = given;
      exchange.interrupted = fail;
      if (!exchange.open) return fail(new ConnectError("the caller is gone", Code.Canceled));
      stream.on("data", (chunk: Buffer) => {
        if (receiver === undefined) return;
        reader.feed(chunk);
        pump();
      });
      stream.once("end", () => {
        if (stream.aborted) return; // RST_STREAM ends it too; "close" tells
        saidAll = true;
        pump();
      });
    },
    encode: (message) => codec.serialize(message),
    write: (messages) => exchange.write(messages),
    drained: (callback) => void stream.on("drain", callback),
  };
}

function defect(error: unknown): ConnectError {
  return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
}
