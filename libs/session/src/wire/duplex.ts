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
import { compressedFlag, createEnvelopeReader, endStreamFlag, type EnvelopeReader } from "./envelope.ts";
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
  return new ExchangeDuplex(exchange, codec, limitBytes);
}

class ExchangeDuplex<In extends Message, Out extends Message> implements Duplex<In, Out> {
  readonly #exchange: Exchange;
  readonly #codec: Codec<In, Out>;
  readonly #reader: EnvelopeReader;
  #receiver: Receiver<In> | undefined;
  #busy = false;
  #saidAll = false;

  constructor(exchange: Exchange, codec: Codec<In, Out>, limitBytes: number) {
    this.#exchange = exchange;
    this.#codec = codec;
    this.#reader = createEnvelopeReader(limitBytes);
  }

  get binary(): boolean {
    return this.#exchange.protocol.binary;
  }

  receive(receiver: Receiver<In>): void {
    const exchange = this.#exchange;
    const { stream } = exchange;
    this.#receiver = receiver;
    exchange.interrupted = (why) => this.#fail(why);
    if (!exchange.open) return this.#fail(new ConnectError("the caller is gone", Code.Canceled));
    stream.on("data", (chunk: Buffer) => {
      if (this.#receiver === undefined) return;
      this.#reader.feed(chunk);
      this.#pump();
    });
    stream.once("end", () => {
      if (stream.aborted) return; // RST_STREAM ends it too; "close" tells
      this.#saidAll = true;
      this.#pump();
    });
  }

  encode(message: Out): Uint8Array {
    return this.#codec.serialize(message);
  }

  write(messages: readonly Uint8Array[]): boolean {
    return this.#exchange.write(messages);
  }

  drained(callback: () => void): void {
    this.#exchange.stream.on("drain", callback);
  }

  /** Handles what is there, until there is no more, or one of them takes its time (D1). */
  #pump(): void {
    const exchange = this.#exchange;
    try {
      while (!this.#busy && this.#receiver !== undefined && exchange.open) {
        const envelope = this.#reader.next();
        if (envelope === undefined) break;
        if ((envelope.flags & compressedFlag) !== 0) {
          throw new ConnectError("received compressed envelope, but do not know how to decompress", Code.Internal);
        }
        if (exchange.protocol.kind === "connect" && (envelope.flags & endStreamFlag) !== 0) continue;
        const handled = this.#receiver.message(this.#codec.parse(envelope.data));
        if (handled !== undefined) this.#wait(handled);
      }
    } catch (error) {
      return this.#fail(error instanceof ConnectError ? error : defect(error));
    }
    if (!this.#saidAll || this.#busy || this.#receiver === undefined || !exchange.open) return;
    if (this.#reader.unfinished) {
      return this.#fail(new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument));
    }
    const heard = this.#receiver;
    this.#receiver = undefined;
    heard.end();
  }

  #wait(handled: Promise<void>): void {
    const { stream } = this.#exchange;
    this.#busy = true;
    stream.pause();
    handled.then(
      () => {
        this.#busy = false;
        this.#pump();
        if (!this.#busy) stream.resume();
      },
      (error: unknown) => this.#fail(defect(error)),
    );
  }

  #fail(why: ConnectError): void {
    const heard = this.#receiver;
    this.#receiver = undefined; // D2
    heard?.failed(why);
  }
}

function defect(error: unknown): ConnectError {
  return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
}
