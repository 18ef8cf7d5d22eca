/**
 * One call on one HTTP/2 stream: its facts, and its answer in the caller's
 * protocol.
 *
 * X1: it is answered once. What comes later (a handler that did not notice its
 *     deadline) changes nothing.
 * X2: when it is over, its signal is aborted, and no timer of it is left.
 * X3: what a caller says after the answer is read and not heard, for a while;
 *     then it is stopped by RST_STREAM(NO_ERROR) (RFC 9113, 8.1). Not at once:
 *     nghttp2 drops trailers that are not on the wire yet when it gets that.
 * X4: of the request's headers nothing is kept once the answer has begun: a
 *     stream stays open for hours, and its assertion with them.
 */
import { constants, type IncomingHttpHeaders, type OutgoingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import { type ConnectError, type ContextValues, createContextValues } from "@connectrpc/connect";
import { startDeadline } from "./deadline.ts";
import { endStreamFlag, joinEnvelopes } from "./envelope.ts";
import type { Protocol } from "./protocol.ts";
import { connectEnd, connectError, goneBy, grpcStatus } from "./status.ts";

/** What a handler sees of its call; a subset of Connect's HandlerContext, but for the answer's headers. */
export interface WireCall {
  readonly method: DescMethod;
  readonly url: string;
  /** Empty once the answer has begun. */
  readonly requestHeader: Pick<Headers, "get">;
  /** Sent before the first message, by lower-case name. */
  readonly responseHeader: OutgoingHttpHeaders;
  readonly values: ContextValues;
  /** Aborts when the call is over, also in order; with a ConnectError where it is cancelled, late or drained. */
  readonly signal: AbortSignal;
  /** Calls back when that signal aborts, and costs none. For one; at once where the call is over. */
  aborted(callback: () => void): void;
  /** True where nobody is left to answer. */
  readonly gone: boolean;
  /** Cuts the stream without an answer. */
  hangUp(): void;
}

export class Exchange implements WireCall {
  readonly method: DescMethod;
  readonly protocol: Protocol;
  readonly values: ContextValues;
  readonly responseHeader: OutgoingHttpHeaders = {};
  readonly stream: ServerHttp2Stream;
  /** Told once where it is over before it was answered. */
  interrupted: ((why: ConnectError) => void) | undefined;
  #headers: IncomingHttpHeaders;
  readonly #lingerMs: number;
  readonly #ended: () => void;
  #phase: "open" | "answering" | "answered" = "open";
  #gone = false;
  #aborting: AbortController | undefined;
  #whenAborted: (() => void) | undefined;
  #over: { reason: unknown } | undefined;
  #stopDeadline: (() => void) | undefined;

  constructor(
    parts: {
      method: DescMethod;
      protocol: Protocol;
      values: ContextValues | undefined;
      lingerMs: number;
      ended: () => void;
    },
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
  ) {
    this.method = parts.method;
    this.protocol = parts.protocol;
    this.values = parts.values ?? createContextValues();
    this.stream = stream;
    this.#headers = headers;
    this.#lingerMs = parts.lingerMs;
    this.#ended = parts.ended;
    stream.on("error", () => undefined); // "close" follows, with its code
    stream.once("close", () => this.#closed());
  }

  get requestHeader(): Pick<Headers, "get"> {
    return {
      get: (name) => {
        const value = this.#headers[name.toLowerCase()];
        return value === undefined ? null : Array.isArray(value) ? value.join(", ") : value;
      },
    };
  }

  get url(): string {
    const scheme = this.#headers[":scheme"] === "https" ? "https" : "http";
    return `${scheme}://${this.#headers[":authority"] ?? this.#headers.host ?? ""}${this.#headers[":path"] ?? ""}`;
  }

  get signal(): AbortSignal {
    if (this.#aborting === undefined) {
      this.#aborting = new AbortController();
      if (this.#over !== undefined) this.#aborting.abort(this.#over.reason);
    }
    return this.#aborting.signal;
  }

  get gone(): boolean {
    return this.#gone;
  }

  /** True until it is answered, or cannot be any more. */
  get open(): boolean {
    return this.#phase !== "answered";
  }

  /** Answers DEADLINE_EXCEEDED after that time. */
  limit(timeoutMs: number | undefined): void {
    this.#stopDeadline = startDeadline(timeoutMs, (late) => this.#interrupt(late));
  }

  /** Aborts the signal; what that means is the handler's to say. */
  abort(reason: unknown): void {
    if (this.#over !== undefined) return;
    this.#over = { reason };
    this.#stopDeadline?.();
    this.#aborting?.abort(reason);
    this.#whenAborted?.();
  }

  aborted(callback: () => void): void {
    if (this.#over !== undefined) callback();
    else this.#whenAborted = callback;
  }

  hangUp(): void {
    this.#answered();
    this.stream.close(constants.NGHTTP2_CANCEL);
    this.stream.destroy(); // close alone waits for data that the peer does not take
  }

  /** Writes messages, enveloped. False: the caller has to take some of them before the next. */
  write(messages: readonly Uint8Array[]): boolean {
    if (!this.#writable()) return false;
    this.#begin();
    return this.stream.write(joinEnvelopes(messages));
  }

  /** The one message of a unary call. */
  reply(message: Uint8Array): void {
    if (this.protocol.kind !== "unary") {
      this.write([message]);
      return this.finish();
    }
    if (!this.#writable()) return;
    this.#answered();
    this.#respond({ ...this.responseHeader, "content-length": message.byteLength }, !this.stream.readableEnded);
    this.stream.end(message);
  }

  /** Ends the answer. Of a unary call only with an error; `more` are headers that this error needs. */
  finish(error?: ConnectError, more: OutgoingHttpHeaders = {}): void {
    if (!this.#writable()) return this.#answered();
    const { kind } = this.protocol;
    const begun = this.#phase === "answering";
    Object.assign(this.responseHeader, more);
    this.#answered();
    if (kind === "unary") {
      if (error === undefined) throw new Error("a unary call ends with a message or an error");
      const { status, headers, body } = connectError(error);
      const all = { ...this.responseHeader, ...headers, ":status": status, "content-length": body.byteLength };
      this.#respond(all, true);
      this.stream.end(body);
    } else if (kind === "connect") {
      if (!begun) this.#respond(this.responseHeader, true);
      this.stream.end(joinEnvelopes([connectEnd(error)], endStreamFlag));
    } else if (begun) {
      this.#trailers = grpcStatus(error);
      this.stream.end();
    } else {
      // Trailers only: what is not begun ends with its headers.
      const head = { ":status": 200, "content-type": this.protocol.contentType };
      this.stream.respond({ ...head, ...this.responseHeader, ...grpcStatus(error) }, { endStream: true });
      this.#linger();
    }
  }

  #trailers: OutgoingHttpHeaders = {};

  #writable(): boolean {
    return this.#phase !== "answered" && !this.stream.destroyed && !this.stream.closed;
  }

  #begin(): void {
    if (this.#phase !== "open") return;
    this.#phase = "answering";
    this.#headers = {}; // X4
    this.#respond(this.responseHeader, true);
  }

  /** `open`: the caller may have more to say when the answer ends. */
  #respond(headers: OutgoingHttpHeaders, open: boolean): void {
    const head = { ":status": 200, "content-type": this.protocol.contentType, ...headers };
    this.stream.respond(head, { waitForTrailers: open });
    if (!open) return;
    this.stream.once("wantTrailers", () => {
      if (this.stream.destroyed || this.stream.closed) return; // it would throw, with nobody to catch it
      this.stream.sendTrailers(this.#trailers);
      this.#linger();
    });
  }

  #linger(): void {
    if (this.stream.readableEnded) return;
    this.stream.resume(); // X3
    const timer = setTimeout(() => this.stream.close(constants.NGHTTP2_NO_ERROR), this.#lingerMs).unref();
    this.stream.once("close", () => clearTimeout(timer));
  }

  #interrupt(why: ConnectError): void {
    if (!this.open) return;
    this.finish(why);
    this.interrupted?.(why);
  }

  #answered(): void {
    if (this.#phase === "answered") return; // X1
    this.#phase = "answered";
    this.abort(undefined); // X2
    this.#ended();
  }

  #closed(): void {
    this.#gone = true;
    if (!this.open) return;
    const why = goneBy(this.stream.rstCode);
    this.abort(why);
    this.#answered();
    this.interrupted?.(why);
  }
}
