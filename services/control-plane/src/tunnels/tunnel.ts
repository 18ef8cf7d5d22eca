/**
 * One tunnel at the replica where somebody waits for it: what the agent says,
 * and what it is told.
 *
 * U1: nothing is read ahead: a frame is asked for when the last one is dealt
 *     with, so that a slow reader slows the agent.
 * U2: it ends once, with why; whoever waits for a frame hears of it at once.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type TunnelRequest, type TunnelResponse, TunnelResponseSchema } from "@bowline/contract/agent";
import { type Clock, createHandoff, problem, type Problem, withIdle } from "@bowline/kernel";
import { tunnelKeepAliveMs, tunnelSilenceMs } from "@bowline/session";

export type Down = Exclude<MessageInitShape<typeof TunnelResponseSchema>, TunnelResponse>["frame"];

/** What whoever opened it has of it. */
export interface Tunnel {
  readonly id: string;
  /** What the agent says, without signs of life. Throws TUNNEL_LOST where it broke, or why it was ended. */
  readonly frames: AsyncIterable<TunnelRequest>;
  /** Resolves when the frame is taken; false: the tunnel is over. One at a time. */
  send(frame: Down): Promise<boolean>;
  /** Ends it. The agent ends what it started for it. */
  close(): void;
  /** Ends it with why. */
  fail(why: Problem): void;
}

/** The agent's call. */
export interface Arrived {
  /** What follows the first message. */
  rest: AsyncIterator<TunnelRequest>;
  /** Aborts when the call is over. */
  signal: AbortSignal;
  /** Cuts it: an agent that reads nothing would not hear of an end otherwise. */
  hangUp: () => void;
}

/** An agent that reads ends its call within a round trip. */
const hangUpAfterMs = 1_000;

const down = (frame: Down): TunnelResponse =>
  create(TunnelResponseSchema, { frame } as MessageInitShape<typeof TunnelResponseSchema>);

/** The tunnel of a call that has arrived, and what the agent is to be answered. */
export function openTunnel(
  id: string,
  { rest, signal, hangUp }: Arrived,
  clock: Clock,
): { tunnel: Tunnel; answers: AsyncIterable<TunnelResponse> } {
  const said = createHandoff<TunnelResponse>();
  const over = new AbortController();
  let why: Problem | undefined;
  let hanging: NodeJS.Timeout | undefined;

  function end(because?: Problem): void {
    if (over.signal.aborted) return;
    why = because;
    over.abort(); // U2
    said.leave();
    if (!signal.aborted) hanging = setTimeout(hangUp, hangUpAfterMs).unref();
  }
  signal.addEventListener(
    "abort",
    () => {
      clearTimeout(hanging);
      end(problem("TUNNEL_LOST"));
    },
    { once: true },
  );
  if (signal.aborted) end(problem("TUNNEL_LOST"));

  async function* frames(): AsyncGenerator<TunnelRequest> {
    while (!over.signal.aborted) {
      const next = await nextOf(rest, over.signal, clock);
      if (next === "ended") break;
      if (next === "silent") end(problem("TUNNEL_LOST", "The agent has not said anything for too long."));
      else if (next === "broken") end(problem("TUNNEL_LOST"));
      else if (next.done === true) return;
      else if (next.value.frame.case !== "keepAlive") yield next.value;
    }
    if (why !== undefined) throw why;
  }

  const keepAlive = (): TunnelResponse => down({ case: "keepAlive", value: {} });
  const tunnel: Tunnel = {
    id,
    frames: frames(),
    send: (frame) => said.put(down(frame)),
    close: () => end(),
    fail: (because) => end(because),
  };
  return { tunnel, answers: withIdle(said, tunnelKeepAliveMs, keepAlive, clock) };
}

type Next = IteratorResult<TunnelRequest> | "silent" | "broken" | "ended";

/** Never rejects. */
async function nextOf(rest: AsyncIterator<TunnelRequest>, over: AbortSignal, clock: Clock): Promise<Next> {
  const came = new AbortController();
  const waiting = AbortSignal.any([over, came.signal]);
  const silence = clock.sleep(tunnelSilenceMs, waiting).then((): Next => (over.aborted ? "ended" : "silent"));
  const next = rest.next().catch((): Next => "broken");
  const first = await Promise.race([next, silence]);
  came.abort();
  return over.aborted && first === "broken" ? "ended" : first;
}
