/**
 * One end of a stream: what goes out waits in an outbox, what comes in is
 * checked for its order and ends the silence. Whatever ends it, it ends once,
 * and says how as a value.
 *
 * A line is that much; what comes in is pushed into it. A channel is a line
 * whose transport and reader are iterators.
 */
import { isProblem, problem, type Clock, type Problem } from "@bowline/kernel";
import { createOutbox, type Outbox, type SendOutcome } from "./outbox.ts";
import type { OrderCheck } from "./order.ts";
import { maxQueuedMessages, maxStreamMessageBytes, silenceLimitMs, stallLimitMs } from "./limits.ts";
import { type Silence, watchSilence } from "./silence.ts";

/** How a stream ended. The first reason counts. */
export type ChannelEnd =
  /** The peer ended it in order. */
  | { kind: "peer-closed" }
  /** This end closed it. */
  | { kind: "closed"; because?: Problem }
  /** The network or the peer failed it; a ConnectError as a rule. */
  | { kind: "failed"; error: unknown }
  /** The peer said nothing for this long. */
  | { kind: "silent"; limitMs: number }
  /** The peer read nothing for the stall limit, or its queue was full. */
  | { kind: "stalled" }
  /** The peer sent what it may not send now (PROTOCOL_VIOLATION). */
  | { kind: "violated"; problem: Problem };

export interface Line<Out> {
  /** Never waits. `full` ends the channel as stalled; `too-large` sends nothing and is the caller's to handle. */
  send(message: Out): SendOutcome;
  /** What is queued still goes out. Down the stream `because` reaches the peer as its error. */
  close(because?: Problem): void;
  /** False once it has ended. */
  readonly open: boolean;
  /** Resolves once, with the first reason. */
  readonly ended: Promise<ChannelEnd>;
  /** Aborts with the channel's end. */
  readonly signal: AbortSignal;
  /** Another silence limit from now on; the default is 45 s. */
  limitSilence(ms: number): void;
  /** Messages that wait to be sent. */
  readonly queued: number;
}

export interface Channel<Out, In> extends Line<Out> {
  /** What the peer says, in order; for one reader. Ends with the channel and never throws: `ended` tells why. */
  readonly messages: AsyncIterable<In>;
}

export type LineOptions<Out, In, Item = Out> = {
  encode: (message: Out) => Item;
  sizeOf: (item: Item) => number;
  coalesce: (message: Out) => string | undefined;
  order: OrderCheck<In>;
  clock: Clock;
  /** Cuts the connection: called where the channel did not end in order. */
  hangUp: () => void;
  maxQueued?: number;
  stallMs?: number;
  silenceMs?: number;
};

/** A line, the outbox that its transport reads, and where the transport puts what it hears. */
export class OpenLine<Out, In, Item = Out> implements Line<Out> {
  readonly ended: Promise<ChannelEnd>;
  readonly outbox: Outbox<Out, Item>;
  readonly #order: OrderCheck<In>;
  readonly #hangUp: () => void;
  readonly #silence: Silence;
  #settle: (end: ChannelEnd) => void = () => {};
  #first: ChannelEnd | undefined;
  /** Made for whoever asks for its signal. */
  #over: AbortController | undefined;

  constructor(options: LineOptions<Out, In, Item>) {
    const { encode, sizeOf, coalesce, clock } = options;
    this.#order = options.order;
    this.#hangUp = options.hangUp;
    this.ended = new Promise((resolve) => (this.#settle = resolve));
    this.outbox = createOutbox<Out, Item>({
      ...{ encode, sizeOf, coalesce, clock },
      limitBytes: maxStreamMessageBytes,
      maxQueued: options.maxQueued ?? maxQueuedMessages,
      stallMs: options.stallMs ?? stallLimitMs,
      stalled: () => {
        this.finish({ kind: "stalled" });
        this.#hangUp(); // Also where it had ended before: what was queued then is not taken either.
      },
    });
    this.#silence = watchSilence({
      limitMs: options.silenceMs ?? silenceLimitMs,
      clock,
      silent: (limitMs) => this.finish({ kind: "silent", limitMs }),
    });
  }

  send(message: Out): SendOutcome {
    const outcome = this.outbox.send(message);
    if (outcome === "full") this.finish({ kind: "stalled" });
    return outcome;
  }

  close(because?: Problem): void {
    this.finish(because === undefined ? { kind: "closed" } : { kind: "closed", because });
  }

  get signal(): AbortSignal {
    if (this.#over === undefined) {
      this.#over = new AbortController();
      if (this.#first !== undefined) this.#over.abort();
    }
    return this.#over.signal;
  }

  get open(): boolean {
    return this.#first === undefined;
  }

  limitSilence(ms: number): void {
    this.#silence.limit(ms);
  }

  get queued(): number {
    return this.outbox.queued;
  }

  /** False where the message is not to be handled: it came out of order, or after the end. */
  heard(message: In): boolean {
    if (this.#first !== undefined) return false;
    this.#silence.heard();
    const wrong = this.#order(message);
    if (wrong !== undefined) this.finish({ kind: "violated", problem: problem("PROTOCOL_VIOLATION", wrong) });
    return wrong === undefined;
  }

  /** Ends it, unless it has ended. */
  finish(how: ChannelEnd): void {
    if (this.#first !== undefined) return;
    this.#first = how;
    this.#silence.stop();
    switch (how.kind) {
      case "closed":
        this.outbox.close(how.because);
        break;
      case "violated":
        this.outbox.close(how.problem);
        break;
      case "peer-closed":
        this.outbox.close();
        break;
      case "failed":
      case "silent":
      case "stalled":
        this.outbox.abandon();
        break;
      default:
        how satisfies never;
    }
    this.#over?.abort();
    this.#settle(how);
    // Last: whoever hears of the cut knows by then why.
    if (how.kind === "silent" || how.kind === "stalled") this.#hangUp();
  }
}

/** A channel, and the outbox that the transport reads. `incoming` is what the transport gives. */
export function createChannel<Out, In>(
  incoming: AsyncIterable<In>,
  options: Omit<LineOptions<Out, In>, "encode">,
): { channel: Channel<Out, In>; outbox: Outbox<Out> } {
  const line = new OpenLine<Out, In>({ ...options, encode: (message) => message });
  /** Wakes the reader of `messages`. Set anew for each wait, so that nothing piles up on a long-lived promise. */
  let stopReading: (() => void) | undefined;
  line.signal.addEventListener("abort", () => stopReading?.(), { once: true });
  return { channel: Object.assign(line, { messages: read() }), outbox: line.outbox };

  async function* read(): AsyncGenerator<In> {
    const iterator = incoming[Symbol.asyncIterator]();
    try {
      while (!line.signal.aborted) {
        const next = await nextOrEnd(iterator);
        if (next === undefined) return;
        if (next.done === true) return line.finish({ kind: "peer-closed" });
        if (!line.heard(next.value)) return;
        yield next.value;
      }
    } catch (error) {
      line.finish({ kind: "failed", error });
    } finally {
      line.finish({ kind: "closed" }); // The reader left; a no-op where the channel has ended.
    }
  }

  function nextOrEnd(iterator: AsyncIterator<In>): Promise<IteratorResult<In> | undefined> {
    return new Promise((resolve, reject) => {
      stopReading = () => resolve(undefined);
      iterator.next().then(resolve, reject);
    });
  }
}

/** A ChannelEnd in words, for a log line. */
export function describeEnd(end: ChannelEnd): string {
  switch (end.kind) {
    case "peer-closed":
      return "the peer closed the stream";
    case "closed":
      return end.because === undefined ? "closed" : `closed: ${end.because.reason}: ${end.because.message}`;
    case "failed":
      return isProblem(end.error) || end.error instanceof Error ? end.error.message : String(end.error);
    case "silent":
      return `nothing was heard for ${Math.round(end.limitMs / 1000)} s`;
    case "stalled":
      return "the peer does not read";
    case "violated":
      return end.problem.message;
    default:
      return end satisfies never;
  }
}
