/**
 * One end of a stream: what goes out waits in an outbox, what comes in is
 * checked for its order and ends the silence. Whatever ends it, it ends once,
 * and says how as a value.
 */
import { isProblem, problem, type Clock, type Problem } from "@bowline/kernel";
import { createOutbox, type Outbox, type SendOutcome } from "./outbox.ts";
import type { OrderCheck } from "./order.ts";
import { maxQueuedMessages, maxStreamMessageBytes, silenceLimitMs, stallLimitMs } from "./limits.ts";
import { watchSilence } from "./silence.ts";

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

export interface Channel<Out, In> {
  /** Never waits. `full` ends the channel as stalled; `too-large` sends nothing and is the caller's to handle. */
  send(message: Out): SendOutcome;
  /** What the peer says, in order; for one reader. Ends with the channel and never throws: `ended` tells why. */
  readonly messages: AsyncIterable<In>;
  /** What is queued still goes out. Down the stream `because` reaches the peer as its error. */
  close(because?: Problem): void;
  /** Resolves once, with the first reason. */
  readonly ended: Promise<ChannelEnd>;
  /** Aborts with the channel's end. */
  readonly signal: AbortSignal;
  /** Another silence limit from now on; the default is 45 s. */
  limitSilence(ms: number): void;
  /** Messages that wait to be sent. */
  readonly queued: number;
}

export type ChannelOptions<Out, In> = {
  sizeOf: (message: Out) => number;
  coalesce: (message: Out) => string | undefined;
  order: OrderCheck<In>;
  clock: Clock;
  /** Cuts the connection: called where the channel did not end in order. */
  hangUp: () => void;
  maxQueued?: number;
  stallMs?: number;
  silenceMs?: number;
};

/** A channel, and the outbox that the transport reads. `incoming` is what the transport gives. */
export function createChannel<Out, In>(
  incoming: AsyncIterable<In>,
  options: ChannelOptions<Out, In>,
): { channel: Channel<Out, In>; outbox: Outbox<Out> } {
  const over = new AbortController();
  let settle: (end: ChannelEnd) => void = () => {};
  let first: ChannelEnd | undefined;
  const ended = new Promise<ChannelEnd>((resolve) => (settle = resolve));
  /** Wakes the reader of `messages`. Set anew for each wait, so that nothing piles up on a long-lived promise. */
  let stopReading: (() => void) | undefined;

  const outbox = createOutbox<Out>({
    sizeOf: options.sizeOf,
    coalesce: options.coalesce,
    limitBytes: maxStreamMessageBytes,
    maxQueued: options.maxQueued ?? maxQueuedMessages,
    stallMs: options.stallMs ?? stallLimitMs,
    clock: options.clock,
    stalled: () => {
      end({ kind: "stalled" });
      options.hangUp(); // Also where it had ended before: what was queued then is not taken either.
    },
  });
  const silence = watchSilence(
    {
      limitMs: options.silenceMs ?? silenceLimitMs,
      clock: options.clock,
      silent: (limitMs) => end({ kind: "silent", limitMs }),
    },
    over.signal,
  );

  const channel: Channel<Out, In> = {
    send(message) {
      const outcome = outbox.send(message);
      if (outcome === "full") end({ kind: "stalled" });
      return outcome;
    },
    messages: read(),
    close: (because) => end(because === undefined ? { kind: "closed" } : { kind: "closed", because }),
    ended,
    signal: over.signal,
    limitSilence: (ms) => silence.limit(ms),
    get queued() {
      return outbox.queued;
    },
  };
  return { channel, outbox };

  async function* read(): AsyncGenerator<In> {
    const iterator = incoming[Symbol.asyncIterator]();
    try {
      while (first === undefined) {
        const next = await nextOrEnd(iterator);
        if (next === undefined) return;
        if (next.done === true) return end({ kind: "peer-closed" });
        silence.heard();
        const wrong = options.order(next.value);
        if (wrong !== undefined) return end({ kind: "violated", problem: problem("PROTOCOL_VIOLATION", wrong) });
        yield next.value;
      }
    } catch (error) {
      end({ kind: "failed", error });
    } finally {
      end({ kind: "closed" }); // The reader left; a no-op where the channel has ended.
    }
  }

  function nextOrEnd(iterator: AsyncIterator<In>): Promise<IteratorResult<In> | undefined> {
    return new Promise((resolve, reject) => {
      stopReading = () => resolve(undefined);
      iterator.next().then(resolve, reject);
    });
  }

  function end(how: ChannelEnd): void {
    if (first !== undefined) return;
    first = how;
    switch (how.kind) {
      case "closed":
        outbox.close(how.because);
        break;
      case "violated":
        outbox.close(how.problem);
        break;
      case "peer-closed":
        outbox.close();
        break;
      case "failed":
        outbox.abandon();
        break;
      case "silent":
      case "stalled":
        outbox.abandon();
        options.hangUp();
        break;
      default:
        how satisfies never;
    }
    over.abort();
    stopReading?.();
    settle(how);
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
