/**
 * The framing that gRPC and Connect share: one byte of flags, four of length,
 * the message; again and again.
 *
 * V1: however the bytes are cut, the same envelopes come out.
 * V2: a length above the limit is refused when its five bytes are there, and
 *     nothing of that message is kept.
 * V3: what is held is the chunk in hand and at most one unfinished message.
 */
import { Code, ConnectError } from "@connectrpc/connect";

/** The message is compressed. Both protocols. */
export const compressedFlag = 0b01;
/** Connect: what ends a stream, with its error and trailers. */
export const endStreamFlag = 0b10;

const headBytes = 5;
const nothing = new Uint8Array(0);

export interface Envelope {
  flags: number;
  data: Uint8Array;
}

export interface EnvelopeReader {
  /** The next bytes. Only after `next` said undefined. */
  feed(chunk: Uint8Array): void;
  /** The next whole envelope, which may be a view into a chunk; undefined: it needs more. Throws RESOURCE_EXHAUSTED (V2). */
  next(): Envelope | undefined;
  /** True where the end would cut an envelope short. */
  readonly unfinished: boolean;
}

export function createEnvelopeReader(limitBytes: number): EnvelopeReader {
  return new CuttingReader(limitBytes);
}

class CuttingReader implements EnvelopeReader {
  readonly #limitBytes: number;
  #chunk: Uint8Array = nothing;
  #at = 0;
  /** Where a chunk ended inside those five bytes. */
  #head: Uint8Array | undefined;
  #headHas = 0;
  #body: { flags: number; data: Uint8Array; has: number } | undefined;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  feed(chunk: Uint8Array): void {
    this.#chunk = chunk;
    this.#at = 0;
  }

  next(): Envelope | undefined {
    if (this.#body === undefined) {
      const found = this.#nextHead();
      if (found === undefined) return void (this.#chunk = nothing);
      const { bytes, offset } = found;
      const flags = bytes[offset] ?? 0;
      const length = lengthAt(bytes, offset + 1);
      if (length > this.#limitBytes) {
        const message = `message size ${length} is larger than configured readMaxBytes ${this.#limitBytes}`;
        throw new ConnectError(message, Code.ResourceExhausted); // V2
      }
      if (this.#chunk.length - this.#at >= length) {
        const data = this.#chunk.subarray(this.#at, this.#at + length);
        this.#at += length;
        return { flags, data };
      }
      this.#body = { flags, data: new Uint8Array(length), has: 0 };
    }
    const body = this.#body;
    const taken = this.#chunk.subarray(this.#at, this.#at + body.data.length - body.has);
    body.data.set(taken, body.has);
    body.has += taken.length;
    this.#at += taken.length;
    if (body.has < body.data.length) return void (this.#chunk = nothing);
    this.#body = undefined;
    return { flags: body.flags, data: body.data };
  }

  get unfinished(): boolean {
    return this.#headHas > 0 || this.#body !== undefined;
  }

  /** The bytes of a head, and whose offset to read them at. */
  #nextHead(): { bytes: Uint8Array; offset: number } | undefined {
    if (this.#headHas === 0 && this.#chunk.length - this.#at >= headBytes) {
      this.#at += headBytes;
      return { bytes: this.#chunk, offset: this.#at - headBytes };
    }
    if (this.#at === this.#chunk.length) return undefined; // as a rule: what is cut needs a place to gather
    this.#head ??= new Uint8Array(headBytes);
    while (this.#headHas < headBytes && this.#at < this.#chunk.length) {
      this.#head[this.#headHas++] = this.#chunk[this.#at++] ?? 0;
    }
    if (this.#headHas < headBytes) return undefined;
    this.#headHas = 0;
    return { bytes: this.#head, offset: 0 };
  }
}

function lengthAt(bytes: Uint8Array, at: number): number {
  const high = (bytes[at] ?? 0) * 0x1000000;
  return high + (((bytes[at + 1] ?? 0) << 16) | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0));
}

/** Messages as envelopes one after the other, in one piece: what is written together costs one write. */
export function joinEnvelopes(messages: readonly Uint8Array[], flags = 0): Buffer {
  let length = 0;
  for (const { byteLength } of messages) length += headBytes + byteLength;
  const joined = Buffer.allocUnsafe(length);
  let at = 0;
  for (const message of messages) {
    joined[at] = flags;
    joined.writeUInt32BE(message.byteLength, at + 1);
    joined.set(message, at + headBytes);
    at += headBytes + message.byteLength;
  }
  return joined;
}
