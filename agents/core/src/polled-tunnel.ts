/**
 * A tunnel of an agent that polls: its frames in requests, instead of a stream
 * (TunnelPollingService of proto/bowline/agent/v1/tunnels.proto).
 *
 * P1: each lane has one request under way, with its number; one whose answer is
 *     lost is said again with the same.
 * P2: nothing is read ahead but one batch: the next is gathered when the last
 *     one is taken.
 * P3: a way that is broken for longer than a tunnel may be silent ends it.
 */
import { TunnelPollingService, type TunnelRequest, type TunnelResponse } from "@bowline/contract/agent";
import { type Clock, fullJitter } from "@bowline/kernel";
import { inBatches, maxTunnelChunkBytes, refusalOf, tunnelSilenceMs } from "@bowline/session";
import { createClient, type Transport } from "@connectrpc/connect";

const backoff = { floorMs: 200, baseMs: 500, capMs: 5_000 };
/** Said again they would be refused again. */
const forGood = new Set(["TUNNEL_UNKNOWN", "TUNNEL_UNREACHABLE", "SESSION_EXPIRED", "PROTOCOL_VIOLATION"]);

export interface PolledTunnel {
  tunnelId: string;
  unary: Transport;
  /** Of the session, anew for each request. */
  token: () => string;
  clock: Clock;
}

/** Says what comes from `up`, and yields what is answered, until the server ends it or `signal` aborts. */
export async function* pollTunnel(
  { tunnelId, unary, token, clock }: PolledTunnel,
  up: AsyncIterable<TunnelRequest>,
  signal: AbortSignal,
): AsyncGenerator<TunnelResponse> {
  const client = createClient(TunnelPollingService, unary);
  const over = new AbortController();
  const ending = AbortSignal.any([signal, over.signal]);
  const options = () => ({ headers: { authorization: `Bearer ${token()}` }, signal: ending });
  let failure: unknown;

  /** P1, P3 */
  async function tried<T>(call: () => Promise<T>): Promise<T> {
    const giveUpAt = clock.monotonicMs() + tunnelSilenceMs;
    for (let tries = 0; ; tries += 1) {
      try {
        return await call();
      } catch (error) {
        if (ending.aborted || forGood.has(refusalOf(error).reason) || clock.monotonicMs() > giveUpAt) throw error;
        await clock.sleep(fullJitter(backoff, tries, Math.random), ending);
      }
    }
  }

  async function say(source: AsyncIterator<TunnelRequest>): Promise<void> {
    const gather = inBatches(source, sizeOf, clock);
    for (let number = 1; !ending.aborted; number += 1) {
      const { frames, last } = await gather(); // P2
      let taken = false;
      while (!taken && !ending.aborted)
        ({ taken } = await tried(() => client.sendFrames({ tunnelId, number, frames, last }, options())));
      if (last) return;
    }
  }

  const source = up[Symbol.asyncIterator]();
  say(source).catch((error: unknown) => {
    failure ??= error;
    over.abort();
  });
  try {
    for (let number = 1; ;) {
      const { frames, over: isOver } = await tried(() => client.receiveFrames({ tunnelId, number }, options()));
      yield* frames;
      if (isOver) return;
      if (frames.length > 0) number += 1;
    }
  } catch (error) {
    throw failure ?? error;
  } finally {
    over.abort();
    void source.return?.().catch(() => undefined); // it takes effect after the frame that is awaited
  }
}

function sizeOf({ frame }: TunnelRequest): number {
  if (frame.case === "output") return frame.value.data.length;
  return frame.case === "containers" ? maxTunnelChunkBytes : 0; // the most that one of these has
}
