/**
 * A tunnel of an agent that polls, at the replica where it is waited for: what
 * requests bring and fetch, as the stream that tunnel.ts takes.
 *
 *   polling.ts  the requests
 *
 * Z1: a request that is said again with its number changes nothing, and is
 *     answered alike.
 * Z2: nothing is read ahead but one batch: the next request is answered when
 *     whoever reads has taken the last one.
 */
import type { ReceiveFramesResponse, TunnelRequest, TunnelResponse } from "@bowline/contract/agent";
import { type Clock, createHandoff, problem } from "@bowline/kernel";
import { inBatches, tunnelPollMs } from "@bowline/session";
import type { Arrived } from "./tunnel.ts";

export interface Polled {
  agentId: string;
  /** Resolves when they are taken; false: not yet. */
  send(number: number, frames: readonly TunnelRequest[], last: boolean): Promise<boolean>;
  receive(number: number): Promise<Pick<ReceiveFramesResponse, "frames" | "over">>;
  /** Aborts when it is over; what was answered last can still be asked for again. */
  over: AbortSignal;
}

/** `arrived` takes the tunnel, and says what the agent is to be answered. */
export function takePolled(
  agentId: string,
  arrived: (call: Arrived) => AsyncIterable<TunnelResponse>,
  clock: Clock,
): Polled {
  const up = createHandoff<TunnelRequest>();
  const over = new AbortController();
  over.signal.addEventListener("abort", () => up.leave(), { once: true });
  const answers = arrived({
    rest: up[Symbol.asyncIterator](),
    signal: over.signal,
    hangUp: () => over.abort(),
  })[Symbol.asyncIterator]();
  const gather = inBatches(answers, sizeOf, clock);
  const sent = { number: 0, taking: undefined as Promise<void> | undefined };
  const told = {
    ...{ number: 0, frames: [] as TunnelResponse[], last: false },
    filling: undefined as Promise<void> | undefined,
  };

  async function take(number: number, frames: readonly TunnelRequest[], last: boolean): Promise<void> {
    for (const frame of frames) if (frame.frame.case !== "opened") await up.put(frame);
    if (last) up.end();
  }

  async function within(work: Promise<void>): Promise<void> {
    const done = new AbortController();
    const wait = AbortSignal.any([over.signal, done.signal]);
    await Promise.race([work, clock.sleep(tunnelPollMs, wait)]).finally(() => done.abort());
  }

  return {
    agentId,
    over: over.signal,
    async send(number, frames, last) {
      if (number === sent.number + 1) {
        sent.taking ??= take(number, frames, last).then(() => void Object.assign(sent, { number, taking: undefined }));
        await within(sent.taking); // Z1, Z2
      } else if (number !== sent.number) throw outOfOrder(number);
      return number === sent.number || over.signal.aborted;
    },
    async receive(number) {
      if (number === told.number + 1 && !told.last) {
        told.filling ??= gather().then((next) => void Object.assign(told, { ...next, number, filling: undefined }));
        await within(told.filling);
      }
      if (number === told.number) return { frames: told.frames, over: told.last }; // Z1
      if (number === told.number + 1) return { frames: [], over: told.last };
      throw outOfOrder(number);
    },
  };
}

function outOfOrder(number: number) {
  return problem("PROTOCOL_VIOLATION", `The number ${number} is not the next one of this tunnel, and not the last.`);
}

function sizeOf({ frame }: TunnelResponse): number {
  return frame.case === "stdin" ? frame.value.length : 0;
}
